"""Tools, the ends of conversations and lists of prompts with the real SmolLM2, asked by the real `openai` package."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import aiohttp
import openai
import pytest

from callboard_edge.protocols.kobold.tidy import tidied
from tests.protocols.dialect import TextDialect
from tests.protocols.test_anthropic import AnthropicText
from tests.protocols.test_ollama import GENERATE, OllamaText
from tests.protocols.test_openai import OpenAIChat, OpenAIResponses
from tests.support.deployment import Deployment
from tests.support.models import CHAT_MODEL, built_in_config, missing_model_files
from tests.support.processes import merged

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(missing_model_files()), reason=f"model files missing: {', '.join(missing_model_files())}"),
]

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["place", "unit", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather of a place.",
            "parameters": PARAMETERS,
            "strict": True,
        },
    },
    {"type": "function", "function": {"name": "get_time"}},
]
ASKED: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
CHOSEN: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Deployment]:
    # Two threads of one engine wait for each other where other processes want the same cores.
    config = merged(built_in_config(), {"chat": {"pools": {"local": {"threads": 1}}}})
    deployment = Deployment(tmp_path_factory.mktemp("replies"), config, sync="processes")
    with deployment.running():
        yield deployment


@pytest.fixture
async def client(site: Deployment) -> AsyncGenerator[openai.AsyncOpenAI]:
    key = await asyncio.to_thread(site.create_key, "standard")
    async with openai.AsyncOpenAI(base_url=site.base_url, api_key=key, max_retries=0, timeout=120) as one:
        yield one


def check_weather(arguments: str) -> None:
    found = json.loads(arguments)
    assert set(found) == {"place", "unit", "days"}
    assert found["unit"] in {"celsius", "fahrenheit"}
    assert 1 <= found["days"] <= 7


@pytest.mark.parametrize("temperature", [0, 1, 2])
async def test_forced_call_is_made_whole_and_streamed(client: openai.AsyncOpenAI, temperature: float) -> None:
    ask: Any = {
        "model": CHAT_MODEL,
        "messages": ASKED,
        "tools": TOOLS,
        "temperature": temperature,
        "max_tokens": 120,
        "seed": 3,
    }
    for choice in (CHOSEN, "required"):
        whole = await client.chat.completions.create(**ask, tool_choice=choice)
        assert whole.choices[0].finish_reason == "tool_calls"
        assert whole.choices[0].message.content is None
        calls: Any = whole.choices[0].message.tool_calls
        for call in calls:
            assert call.id
            if call.function.name == "get_weather":
                check_weather(call.function.arguments)
            else:
                assert json.loads(call.function.arguments) == {}
        async with client.chat.completions.stream(**ask, tool_choice=choice) as stream:
            done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
            final = await stream.get_final_completion()
        assert done
        assert final.choices[0].finish_reason == "tool_calls"


async def test_text_streams_at_once_where_tools_may_be_called(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Say hello to me."}],
        tools=TOOLS,
        max_tokens=30,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 3
    assert "<tool_call>" not in "".join(pieces)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens is not None


async def test_results_of_calls_are_read(client: openai.AsyncOpenAI) -> None:
    function = {"name": "get_weather", "arguments": '{"place":"Oslo","unit":"celsius","days":1}'}
    messages: Any = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": "It rains."},
    ]
    counts: list[int] = []
    for result in ("It rains.", "It rains frogs, and then it snows, and then it rains frogs again."):
        messages[-1]["content"] = result
        reply = await client.chat.completions.create(
            model=CHAT_MODEL, messages=messages, tools=TOOLS, max_tokens=8, temperature=0
        )
        assert reply.choices[0].message.content
        assert reply.usage is not None
        counts.append(reply.usage.prompt_tokens)
    assert counts[1] - counts[0] > 8
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=CHAT_MODEL, messages=messages[:2], tools=TOOLS)
    assert refused.value.param == "messages[1].tool_calls"


ENDS: dict[str, list[dict[str, Any]]] = {
    "an empty turn": [{"role": "assistant", "content": ""}],
    "a blank turn": [{"role": "assistant", "content": " \n"}],
    "empty turns": [{"role": "assistant", "content": ""}, {"role": "assistant", "content": None}],
    "two starts": [{"role": "assistant", "content": "Hello"}, {"role": "assistant", "content": "there"}],
    "one start": [{"role": "assistant", "content": "Hello and"}],
}


@pytest.mark.parametrize("case", ENDS)
async def test_ends_of_conversations_are_answered_without_a_role_in_the_text(
    client: openai.AsyncOpenAI, case: str
) -> None:
    messages: Any = [{"role": "user", "content": "Say hi."}, *ENDS[case]]
    for temperature in (0, 1):
        reply = await client.chat.completions.create(
            model=CHAT_MODEL, messages=messages, max_tokens=30, temperature=temperature, seed=1
        )
        text = reply.choices[0].message.content or ""
        assert not text.lower().lstrip().startswith(("assistant", "user", "system"))


async def test_text_that_only_began_like_a_stop_is_delivered(client: openai.AsyncOpenAI) -> None:
    ask: Any = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Say hi."}], "temperature": 0}
    plain = await client.chat.completions.create(**ask, max_tokens=8)
    text = plain.choices[0].message.content or ""
    for stop in (f"{text[-6:]} never", f"{text}!", f"{text[-1]}\x01"):
        reply = await client.chat.completions.create(**ask, max_tokens=8, stop=[stop])
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (text, "length")
        stream = await client.chat.completions.create(**ask, max_tokens=8, stop=[stop], stream=True)
        deltas = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(deltas) == text


async def test_each_prompt_of_a_list_is_answered_and_charged(client: openai.AsyncOpenAI, site: Deployment) -> None:
    prompts = ["The sea is", "The sky is", "Once upon a time"]
    alone = [
        (await client.completions.create(model=CHAT_MODEL, prompt=prompt, max_tokens=8, temperature=0)).choices[0].text
        for prompt in prompts
    ]
    since = len(await site.usage())
    both = await client.completions.create(model=CHAT_MODEL, prompt=prompts, max_tokens=8, temperature=0)
    assert [choice.index for choice in both.choices] == [0, 1, 2]
    assert [choice.text for choice in both.choices] == alone
    events = await site.usage_of(3, since)
    assert both.usage is not None
    assert sum(event.work.prompt_tokens for event in events) == both.usage.prompt_tokens
    assert sum(event.work.completion_tokens for event in events) == both.usage.completion_tokens
    texts = ["", "", ""]
    async for chunk in await client.completions.create(
        model=CHAT_MODEL, prompt=prompts, max_tokens=8, temperature=0, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == alone


async def test_errors_of_the_context_say_both_numbers(client: openai.AsyncOpenAI) -> None:
    for text in ("owl " * 3000, "owl " * 70_000):
        with pytest.raises(openai.BadRequestError) as chat:
            await client.chat.completions.create(
                model=CHAT_MODEL, messages=[{"role": "user", "content": text}], max_tokens=5
            )
        with pytest.raises(openai.BadRequestError) as completion:
            await client.completions.create(model=CHAT_MODEL, prompt=text, max_tokens=5)
        for refused, param in ((chat, "messages"), (completion, "prompt")):
            assert (refused.value.code, refused.value.param) == ("context_length_exceeded", param)
            assert "This model's maximum context length is 2048 tokens. However, you requested " in str(refused.value)


GREEDY = {"temperature": 0, "seed": 7}
PROMPTS = ("Once upon a time, in a mill by the river,", "The theatre was dark.\nAda: Is anybody here?\nMo:", "1, 2, 3,")


async def test_one_prompt_has_one_continuation_and_one_count_through_every_protocol(
    site: Deployment, client: openai.AsyncOpenAI
) -> None:
    headers = {"Authorization": f"Bearer {client.api_key}"}
    async with aiohttp.ClientSession(site.root_url(), headers=headers) as session:

        async def posted(path: str, body: dict[str, Any]) -> str:
            async with session.post(path, json=body) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.text()

        for prompt in PROMPTS:
            kobold = {"prompt": prompt, "max_length": 24, "temperature": 0, "sampler_seed": 7}
            result = json.loads(await posted("/api/v1/generate", kobold))["results"][0]
            assert result["text"]
            streamed = await posted("/api/extra/generate/stream", kobold)
            lines = [line.removeprefix("data: ") for line in streamed.split("\n") if line.startswith("data: ")]
            assert "".join(json.loads(line)["token"] for line in lines) == result["text"]
            textgen = {"prompt": prompt, "max_new_tokens": 24, "temperature": 0, "seed": 7}
            cleaned = json.loads(await posted("/api/v1/generate", textgen))["results"][0]["text"]
            assert tidied(result["text"], prompt) == cleaned
            raw = {**textgen, "truncation_length": 2048, "max_new_tokens": None, "max_length": None}
            ollama = {"model": CHAT_MODEL, "prompt": prompt, "raw": True, "options": {"num_predict": 24, **GREEDY}}
            continued = json.loads(await posted(GENERATE, {**ollama, "stream": False}))
            assert (continued["response"], continued["prompt_eval_count"]) == (result["text"], result["prompt_tokens"])
            pieces = [json.loads(line)["response"] for line in (await posted(GENERATE, ollama)).splitlines()]
            assert "".join(pieces) == result["text"]
            long = json.loads(await posted("/api/v1/generate", {**raw, "stopping_strings": ["\u2603"]}))["results"][0]
            assert long["text"].startswith(result["text"])
            openais = await client.completions.create(
                model=CHAT_MODEL, prompt=prompt, max_tokens=24, temperature=0, seed=7
            )
            assert openais.choices[0].text == result["text"]
            assert openais.usage is not None
            counted = json.loads(await posted("/api/extra/tokencount", {"prompt": prompt}))
            assert counted["value"] == result["prompt_tokens"] == openais.usage.prompt_tokens
            back = json.loads(await posted("/api/extra/detokenize", {"ids": counted["ids"], "special": False}))
            assert back["result"] == prompt


TALKING: dict[TextDialect, dict[str, Any]] = {
    OpenAIChat(): GREEDY,
    # Neither has a seed.
    OpenAIResponses(): {"temperature": 0},
    AnthropicText(): {"temperature": 0},
    OllamaText(): {"options": {"num_predict": 32, **GREEDY}},
    OllamaText(GENERATE): {"options": {"num_predict": 32, **GREEDY}},
}
SAID = (
    "Tell me of the sea.",
    "Repeat this: \U0001f469\u200d\U0001f4bb \U0001f989 Привет! བཀྲ་ཤིས \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "Write three emoji and then the word owl in Russian.",
)


async def test_one_dialogue_has_one_reply_through_every_protocol_whole_and_streamed(
    site: Deployment, client: openai.AsyncOpenAI
) -> None:
    async with aiohttp.ClientSession(site.root_url()) as session:

        async def reply(dialect: TextDialect, said: str, *, stream: bool) -> tuple[str, bool]:
            request = dialect.ask(said, model=CHAT_MODEL, max_tokens=32, stream=stream)
            body = {**json.loads(request.body), **TALKING[dialect]}
            async with session.post(request.path, json=body, headers=dialect.auth_headers(client.api_key)) as answer:
                data = await answer.read()
                assert answer.status == 200, data
            assert "\ufffd" not in data.decode()
            seen = dialect.read_stream(data) if stream else dialect.read_whole(data)
            return seen.text, seen.complete

        for said in SAID:
            replies = {
                (type(one).__name__, one.path, stream): await reply(one, said, stream=stream)
                for one in TALKING
                for stream in (False, True)
            }
            assert len(set(replies.values())) == 1, replies
            assert next(iter(replies.values()))[0]
