"""What every request passes: unknown paths, CORS, bodies, and the pages beside the protocols."""

import asyncio
import json

import pytest

from callboard_contracts.accounts import key_digest
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import LimitState
from tests.unit.edge.harness import EdgeHarness, asking, frames, running

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1", 404),
        ("DELETE", CHAT, 405),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
    ],
)
async def test_path_under_v1_that_is_not_served_answers_as_openai(
    method: str, path: str, status: int, harness: EdgeHarness
) -> None:
    async with harness.session.request(method, harness.url + path) as reply:
        error = (await reply.json())["error"]
        assert reply.status == status
        assert error["code"] == ("not_found" if status == 404 else "method_not_allowed")
        assert reply.headers["x-request-id"]
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        if status == 405:
            assert ("POST" if path == CHAT else "GET, HEAD") in reply.headers["Allow"]


async def test_slash_at_the_end_is_ignored(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/v1/models/") as reply:
        assert reply.status == 200


async def test_preflight_allows_what_the_page_asks_for(harness: EdgeHarness) -> None:
    headers = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-api-key,x-stainless-lang",
        "Access-Control-Request-Private-Network": "true",
    }
    async with harness.session.options(harness.url + CHAT, headers=headers) as reply:
        assert reply.status == 200
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert reply.headers["Access-Control-Allow-Headers"] == headers["Access-Control-Request-Headers"]
        assert "POST" in reply.headers["Access-Control-Allow-Methods"]
        assert reply.headers["Access-Control-Allow-Private-Network"] == "true"
        assert await reply.read() == b""


async def test_preflight_of_another_origin_is_not_allowed() -> None:
    async with running({"edge": {"cors_origins": ["https://page.example"]}}) as harness:
        for origin, allowed in (("https://page.example", "https://page.example"), ("https://other.example", None)):
            async with harness.session.options(harness.url + CHAT, headers={"Origin": origin}) as reply:
                assert reply.headers.get("Access-Control-Allow-Origin") == allowed
                assert reply.headers["Vary"] == "Origin"
            async with harness.session.get(harness.url + "/v1/models", headers={"Origin": origin}) as reply:
                assert reply.headers.get("Access-Control-Allow-Origin") == allowed


async def test_models_are_listed_and_described(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/v1/models") as reply:
        listed = await reply.json()
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["owl", "wren/tiny", "magpie", "parrot", "ear"]
    assert set(listed["data"][0]) == {"id", "object", "created", "owned_by"}
    for name in ("owl", "owl:latest", "wren/tiny", "wren%2Ftiny", "parrot"):
        async with harness.session.get(f"{harness.url}/v1/models/{name}") as reply:
            assert reply.status == 200
            assert (await reply.json())["id"] == name.replace("%2F", "/")
    async with harness.session.get(harness.url + "/v1/models/nobody") as reply:
        assert reply.status == 404
        assert (await reply.json())["error"]["code"] == "model_not_found"


async def test_models_of_a_wrong_key_are_401(harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="No such key.")
    async with harness.session.get(harness.url + "/v1/models", headers={"Authorization": "Bearer x"}) as reply:
        assert reply.status == 401
        assert (await reply.json())["error"]["type"] == "authentication_error"
        assert reply.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "apikey"])
async def test_word_in_the_place_of_a_key_is_no_key_where_none_is_needed(header: str, harness: EdgeHarness) -> None:
    word, key = ("Bearer sk-none", "Bearer cb_mine") if header == "Authorization" else ("sk-none", "cb_mine")
    for value in (word, key):
        async with harness.session.get(harness.url + "/v1/models", headers={header: value}) as reply:
            assert reply.status == 200
    assert [asked.key_digest for asked in harness.quota.identified] == [None, key_digest("cb_mine")]


async def test_word_in_the_place_of_a_key_is_judged_where_one_is_needed() -> None:
    async with running({"quota": {"require_key": True}}) as harness:
        async with harness.session.get(
            harness.url + "/v1/models", headers={"Authorization": "Bearer sk-none"}
        ) as reply:
            assert reply.status == 200
        assert [asked.key_digest for asked in harness.quota.identified] == [key_digest("sk-none")]


async def test_usage_is_told_to_the_holder_of_a_key(harness: EdgeHarness) -> None:
    harness.quota.states = (LimitState(limit="key.tokens_per_day", allowed=100, remaining=28, resets_in_s=60.0),)
    async with harness.session.get(harness.url + "/v1/usage", headers={"Authorization": "Bearer cb_mine"}) as reply:
        assert reply.status == 200
        used = await reply.json()
    assert used == {
        "tier": "standard",
        "tokens_last_day": 0,
        "tokens_this_month": 0,
        "limits": [{"limit": "key.tokens_per_day", "allowed": 100, "remaining": 28, "resets_in_s": 60.0}],
    }
    assert [asked.key_digest for asked in harness.quota.identified] == [key_digest("cb_mine")]


async def test_usage_without_quota_is_503(harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_UNAVAILABLE, message="Away.", retry_after_s=2)
    async with harness.session.get(harness.url + "/v1/usage") as reply:
        assert reply.status == 503
        assert reply.headers["Retry-After"] == "2"


async def test_head_is_answered_like_get_without_a_body(harness: EdgeHarness) -> None:
    async with harness.session.head(harness.url + "/healthz") as reply:
        assert reply.status == 200
        assert await reply.read() == b""
    async with harness.session.get(harness.url + "/readyz") as reply:
        assert await reply.json() == {"status": "ready", "pools": {"chat/main": "awake", "tts/booth": "awake"}}


async def test_document_names_every_path_and_resolves_every_reference(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/openapi.json") as reply:
        text = await reply.text()
    document = json.loads(text)
    assert document["openapi"] == "3.1.0"
    assert {CHAT, "/v1/completions", "/v1/models", "/v1/models/{model}", "/v1/audio/speech"} <= set(document["paths"])
    schemas = document["components"]["schemas"]
    body = document["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schemas[body["$ref"].rpartition("/")[2]]["required"] == ["messages"]
    references = {part.partition('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert references <= set(schemas)


async def test_docs_page_needs_no_other_host(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/docs") as reply:
        page = await reply.text()
        assert reply.content_type == "text/html"
    assert "openapi.json" in page
    assert "https://" not in page
    assert "http://" not in page


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b'{"model": "owl", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "owl", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "owl", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "owl", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "owl", "messages": [{"role": "user", "content": "x"}], "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": "owl", "messages": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
)
async def test_body_that_is_no_request_is_400(body: bytes, harness: EdgeHarness) -> None:
    async with harness.session.post(harness.url + CHAT, data=body) as reply:
        error = (await reply.json())["error"]
        assert (reply.status, error["code"], error["type"]) == (400, "invalid_request", "invalid_request_error")
    assert harness.quota.asked == []


async def test_error_texts_never_quote_the_prompt(harness: EdgeHarness) -> None:
    secret = "the-understudy-is-asleep"
    for body in (
        asking(messages=[{"role": secret, "content": secret}]),
        asking(messages=secret),
        asking(n=secret, model=7),
        asking(tool_choice=secret),
        asking(response_format={"type": secret}),
        asking(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": secret}}}),
    ):
        _, _, answer = await harness.post(CHAT, body)
        assert secret.encode() not in answer


async def test_body_over_the_limit_is_413(harness: EdgeHarness) -> None:
    body = json.dumps(asking(messages=[{"role": "user", "content": "x" * 150_000}])).encode()

    async def pieces() -> object:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    for data in (body, pieces()):
        async with harness.session.post(harness.url + CHAT, data=data) as reply:
            assert reply.status == 413
            assert (await reply.json())["error"]["code"] == "body_too_large"


async def test_client_that_asks_first_is_told_to_go_on(harness: EdgeHarness) -> None:
    harness.plays(frames("Hoo."))
    body = json.dumps(asking()).encode()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(head % (CHAT.encode(), len(body)))
    async with asyncio.timeout(20):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(head % (CHAT.encode(), 10_000_000))
    async with asyncio.timeout(20):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_bytes_that_are_no_request_are_400(harness: EdgeHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
    async with asyncio.timeout(20):
        answer = await reader.read()
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert b"Traceback" not in answer
    writer.close()


@pytest.mark.parametrize(
    "header", [b"x-api-key: cb_\xff", b"Authorization: Bearer cb_\xe9\xff", b"apikey: cb_\xc3\x28"]
)
async def test_key_that_is_no_text_is_a_wrong_key_like_any_other(header: bytes, harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="The API key is not known.")
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n%b\r\nConnection: close\r\n\r\n" % header)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"x-request-id" in answer.lower()


async def test_request_whose_body_is_on_its_way_is_waited_for(harness: EdgeHarness) -> None:
    assert await harness.server.wait_idle(1)
    body = json.dumps(asking()).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    await asyncio.sleep(0.1)
    await harness.server.stop_listening()
    assert not await harness.server.wait_idle(0.1)
    harness.plays(frames("one "))
    writer.write(body)
    async with asyncio.timeout(20):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    assert await harness.server.wait_idle(5)
    writer.close()


async def test_body_that_never_comes_is_408(harness: EdgeHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n{")
    async with asyncio.timeout(8):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "request_timeout"' in answer
    assert b"\r\nConnection: close\r\n" in answer
    writer.close()


@pytest.mark.parametrize("opening", [b"", b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: b"])
async def test_headers_that_never_end_are_cut_off(opening: bytes, harness: EdgeHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(opening)
    async with asyncio.timeout(8):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_headers_that_never_end_after_a_first_request_are_cut_off(harness: EdgeHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(8):
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(1.2)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_connection_is_kept_for_the_next_request(harness: EdgeHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    async with asyncio.timeout(8):
        for _ in range(3):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.6)
    writer.close()


async def test_failure_inside_is_a_500_that_tells_nothing(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a secret place")

    monkeypatch.setattr(harness.quota, "reserve", broken)
    status, headers, body = await harness.post(CHAT, asking())
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (500, "internal")
    assert "secret" not in error["message"]
    assert headers["x-request-id"]
    assert harness.figure("callboard_edge_errors_total", route="chat_completions", code="internal") == 1


async def test_forwarded_address_counts_only_from_trusted_proxies() -> None:
    spoofed = {"X-Forwarded-For": "1.2.3.4, 203.0.113.9"}
    for trusted, seen in (([], "127.0.0.1"), (["127.0.0.0/8"], "203.0.113.9")):
        async with running({"edge": {"trusted_proxies": trusted}}) as harness:
            harness.plays(frames("x"))
            await harness.post(CHAT, asking(), **spoofed)
            assert harness.quota.asked[0].address == seen


async def test_figures_count_each_answer(harness: EdgeHarness) -> None:
    for stream in (False, True):
        harness.plays(frames("Hoo."))
        await harness.post(CHAT, asking(stream=stream))
    await harness.all_closed()
    for mode in ("whole", "stream"):
        labels = {"route": "chat_completions", "protocol": "openai", "mode": mode, "status": "2xx"}
        assert harness.figure("callboard_edge_requests_total", **labels) == 1
    assert harness.figure("callboard_edge_time_to_first_byte_seconds_count", route="chat_completions") == 1
    assert harness.figure("callboard_edge_open_streams", route="chat_completions") == 0
    assert harness.figure("callboard_edge_sent_bytes_total", route="chat_completions") > 200
