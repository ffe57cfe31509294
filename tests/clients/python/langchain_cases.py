"""LangChain's models of OpenAI (both paths), Anthropic and Ollama."""

from functools import partial, reduce
from operator import add
from typing import Any

import pytest
from board import BASE, KEY, MODEL, PLACE, ROOT, TINY_KEY, engine, last_messages
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

OPENAI = partial(ChatOpenAI, base_url=BASE, api_key=KEY, max_retries=0, model=MODEL)
RESPONSES = partial(OPENAI, use_responses_api=True)
ANTHROPIC = partial(ChatAnthropic, base_url=ROOT, api_key=KEY, max_retries=0, model=MODEL)
OLLAMA = partial(ChatOllama, base_url=ROOT, client_kwargs={"headers": {"Authorization": f"Bearer {KEY}"}}, model=MODEL)
CHATS = {"openai": OPENAI, "responses": RESPONSES, "anthropic": ANTHROPIC, "ollama": OLLAMA}
each = pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())


class Place(BaseModel):
    city: str
    people: int


def total(message: Any) -> Any:
    """The tokens of a message."""
    return (message.usage_metadata or {}).get("total_tokens")


@each
def test_replies_whole_and_streamed(chat: Any) -> None:
    engine(reply=["Ho", "o."])
    llm = chat(stream_usage=True) if chat is OPENAI else chat()
    reply = llm.invoke([SystemMessage("Be an owl."), HumanMessage("Hi")])
    assert (reply.text, total(reply)) == ("Hoo.", 9)
    assert [one["role"] for one in last_messages()] == ["system", "user"]
    streamed = reduce(add, llm.stream("Hi"))
    assert (streamed.text, total(streamed)) == ("Hoo.", 9)


@each
def test_agent_calls_its_tool(chat: Any) -> None:
    @tool
    def dim(level: int) -> str:
        """Dims the light."""
        engine(reply=["Done."])
        return f"at {level}"

    engine(tool_call={"name": "dim", "arguments": {"level": 3}})
    result = create_agent(chat(), tools=[dim]).invoke({"messages": [{"role": "user", "content": "Dim it."}]})
    assert result["messages"][-1].text == "Done."
    assert last_messages()[-1]["content"] == "at 3"
    engine(tool_call={"name": "dim", "arguments": {"level": 3}})
    streamed = reduce(add, chat().bind_tools([dim]).stream("Dim it."))
    assert [call["args"] for call in streamed.tool_calls] == [{"level": 3}]


@each
def test_objects_by_schema_and_by_function(chat: Any) -> None:
    engine(reply=PLACE)
    found = chat().with_structured_output(Place, method="json_schema").invoke("Name a city.")
    assert found == Place(city="Oslo", people=3)
    engine(tool_call={"name": "Place", "arguments": {"city": "Oslo", "people": 3}})
    found = chat().with_structured_output(Place, method="function_calling").invoke("Name a city.")
    assert found == Place(city="Oslo", people=3)


@pytest.mark.parametrize(
    "llm",
    [
        RESPONSES(reasoning={"effort": "low", "summary": "auto"}),
        ANTHROPIC(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048),
        OLLAMA(reasoning=True),
    ],
    ids=["responses", "anthropic", "ollama"],
)
def test_thoughts_are_told_and_not_sent_back(llm: Any) -> None:
    engine(reasoning=["Hm", "m."], reply=["Yes."])
    reply = llm.invoke("Is it?")
    for message in (reply, reduce(add, llm.stream("Is it?"))):
        assert [block.get("reasoning") for block in message.content_blocks] == ["Hmm.", None]
    engine(reply=["Sure."])
    assert llm.invoke([HumanMessage("Is it?"), reply, HumanMessage("Really?")]).text == "Sure."
    assert [one["content"] for one in last_messages()] == ["Is it?", "Yes.", "Really?"]


def test_dialogue_goes_on_by_its_last_reply() -> None:
    engine(echoes=True)
    llm = RESPONSES(use_previous_response_id=True)
    first = llm.invoke("one")
    assert llm.invoke([HumanMessage("one"), first, HumanMessage("two")]).text == "re: two "
    assert [one["content"] for one in last_messages()] == ["one", "re: one ", "two"]


@pytest.mark.parametrize("chat", [OPENAI, RESPONSES, ANTHROPIC], ids=["openai", "responses", "anthropic"])
def test_errors_have_the_packages_classes(chat: Any) -> None:
    picture = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    for llm, asked, name in (
        (chat(model="nobody"), "Hi", "NotFoundError"),
        (chat(api_key="cb_wrong"), "Hi", "AuthenticationError"),
        (chat(api_key=TINY_KEY), "word " * 400, "RateLimitError"),
        (chat(), [HumanMessage([{"type": "text", "text": "Look."}, picture])], "BadRequestError"),
    ):
        with pytest.raises(Exception, match="error") as caught:
            llm.invoke(asked)
        assert name in [each.__name__ for each in type(caught.value).__mro__]
    engine(context_tokens=1000)
    with pytest.raises(ContextOverflowError):
        chat().invoke("word " * 6000)


def test_completions_and_embeddings() -> None:
    engine(reply=["Ho", "o."])
    assert OpenAI(base_url=BASE, api_key=KEY, model=MODEL).invoke("Once") == "Hoo."
    texts = ["a b", "c"]
    # Otherwise the package fetches OpenAI's own tokens.
    ours = OpenAIEmbeddings(base_url=BASE, api_key=KEY, model=MODEL, check_embedding_ctx_length=False)
    theirs = OllamaEmbeddings(base_url=ROOT, model=MODEL)
    assert [len(one) for one in ours.embed_documents(texts)] == [len(one) for one in theirs.embed_documents(texts)]
