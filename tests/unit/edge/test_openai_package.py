"""What the `openai` package and others around it send in unusual ways: compressed, with nulls, and as other types."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
import zstandard
from openai import APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient

from callboard_contracts.chat import ChatRequest
from callboard_edge.protocols.openai.bodies import CompletionBody
from callboard_edge.protocols.openai.responses_bodies import ResponsesBody
from tests.unit.edge.harness import EdgeHarness, asking, frames, running

pytestmark = pytest.mark.unit

PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": asking(),
    "/v1/completions": {"model": "owl", "prompt": "Once"},
    "/v1/responses": {"model": "owl", "input": "Hello."},
}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}


class Compressing(httpx.AsyncHTTPTransport):
    """Sends every body compressed."""

    def __init__(self, encoding: str) -> None:
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0))
        self._encoding = encoding

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = COMPRESSORS[self._encoding](await request.aread())
        headers = {**request.headers, "content-encoding": self._encoding, "content-length": str(len(body))}
        return await super().handle_async_request(
            httpx.Request(request.method, request.url, headers=headers, content=body, extensions=request.extensions)
        )


@pytest.mark.parametrize("encoding", COMPRESSORS)
async def test_compressed_bodies_of_the_package_are_read_within_the_limit(encoding: str, harness: EdgeHarness) -> None:
    http = DefaultAsyncHttpxClient(transport=Compressing(encoding))
    async with AsyncOpenAI(base_url=harness.url + "/v1", api_key="none", max_retries=0, http_client=http) as client:
        text = "Hello. " * 5000
        worker = harness.plays(frames("Hoo."))
        chat = await client.chat.completions.create(model="owl", messages=[{"role": "user", "content": text}])
        assert chat.choices[0].message.content == "Hoo."
        assert (await worker).request.messages[0].content == text
        worker = harness.plays(frames("Hoo."))
        async with client.responses.stream(model="owl", input=text) as stream:
            assert (await stream.get_final_response()).output_text == "Hoo."
        assert (await worker).request.messages[0].content == text
        with pytest.raises(APIStatusError, match="larger than the limit"):
            await client.completions.create(model="owl", prompt="a" * 200_000)


async def asked(harness: EdgeHarness, path: str, body: dict[str, Any], content_type: str | None = None) -> ChatRequest:
    """What becomes of a request."""
    worker = harness.plays(frames("x"))
    headers = {} if content_type is None else {"Content-Type": content_type}
    skipped = ("Content-Type",) if content_type is None else ()
    async with harness.session.post(
        harness.url + path, data=json.dumps(body).encode(), headers=headers, skip_auto_headers=skipped
    ) as reply:
        assert reply.status == 200, await reply.text()
    return (await worker).request


@pytest.mark.parametrize("path", PATHS)
async def test_bodies_are_json_whatever_their_type_says(path: str, harness: EdgeHarness) -> None:
    plain = await asked(harness, path, PATHS[path], "application/json")
    for content_type in (None, "text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"):
        assert await asked(harness, path, PATHS[path], content_type) == plain


@pytest.mark.parametrize(
    ("path", "model"), [("/v1/completions", CompletionBody), ("/v1/responses", ResponsesBody)], ids=["text", "items"]
)
async def test_body_of_nulls_means_what_the_empty_one_means(path: str, model: Any, harness: EdgeHarness) -> None:
    nulls = {field.alias or name: None for name, field in model.model_fields.items() if not field.is_required()}
    assert await asked(harness, path, {**nulls, **PATHS[path]}) == await asked(harness, path, PATHS[path])
    assert await asked(harness, path, {**PATHS[path], "stop": []}) == await asked(harness, path, PATHS[path])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_tools_are_dropped_or_refused_as_the_model_says(path: str) -> None:
    models = {name: {"pool": "main", "tools": name} for name in ("ignore", "refuse")}
    tool = {"type": "function", "name": "dim", "parameters": {"type": "object"}}
    tools = [tool if path == "/v1/responses" else {"type": "function", "function": tool}]
    async with running({"chat": {"models": models}}) as harness:
        request = await asked(harness, path, {**PATHS[path], "model": "ignore", "tools": tools})
        assert request.tools == ()
        status, _, answer = await harness.post(path, {**PATHS[path], "model": "refuse", "tools": tools})
        assert (status, json.loads(answer)["error"]["param"]) == (400, "tools")
