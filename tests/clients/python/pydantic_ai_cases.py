"""pydantic-ai's models of OpenAI (both paths) and Ollama."""

from typing import Any

import pytest
from board import BASE, KEY, MODEL, PLACE, engine, last_messages
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, Embedder, NativeOutput, PromptedOutput, ThinkingPart
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.ollama import OllamaModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider

OPENAI = OpenAIProvider(base_url=BASE, api_key=KEY)
KINDS: dict[str, Any] = {
    "chat": lambda name=MODEL: OpenAIChatModel(name, provider=OPENAI),
    "responses": lambda name=MODEL: OpenAIResponsesModel(name, provider=OPENAI),
    "ollama": lambda name=MODEL: OllamaModel(name, provider=OllamaProvider(base_url=BASE, api_key=KEY)),
}
THINKING: Any = {"openai_reasoning_effort": "low", "openai_reasoning_summary": "auto"}


class Place(BaseModel):
    city: str
    people: int


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


def test_replies_whole_and_streamed(model: Any) -> None:
    engine(reply=["Ho", "o."])
    agent = Agent(model(), instructions="Be an owl.")
    result = agent.run_sync("Hi")
    assert (result.output, result.usage.input_tokens, result.usage.output_tokens) == ("Hoo.", 7, 2)
    assert [one["role"] for one in last_messages()] == ["system", "user"]
    streamed = agent.run_stream_sync("Hi")
    assert "".join(streamed.stream_text(delta=True)) == "Hoo."


def test_agent_calls_its_tool(model: Any) -> None:
    agent = Agent(model())

    @agent.tool_plain
    def dim(level: int) -> str:
        """Dims the light."""
        engine(reply=["Done."])
        return f"at {level}"

    engine(tool_call={"name": "dim", "arguments": {"level": 3}})
    assert agent.run_sync("Dim it.").output == "Done."
    assert last_messages()[-1]["content"] == "at 3"


@pytest.mark.parametrize("form", [Place, NativeOutput(Place), PromptedOutput(Place)], ids=["tool", "native", "prompt"])
def test_objects(form: Any, model: Any) -> None:
    if form is Place:
        engine(tool_call={"name": "final_result", "arguments": {"city": "Oslo", "people": 3}})
    else:
        engine(reply=PLACE)
    assert Agent(model(), output_type=form).run_sync("Name a city.").output == Place(city="Oslo", people=3)


def test_thoughts_are_told(model: Any) -> None:
    engine(reasoning=["Hm", "m."], reply=["Yes."])
    agent = Agent(model(), model_settings=THINKING)
    streamed = agent.run_stream_sync("Is it?")
    streamed.get_output()
    for result in (agent.run_sync("Is it?"), streamed):
        thoughts = [part for part in result.all_messages()[-1].parts if isinstance(part, ThinkingPart)]
        assert [part.content for part in thoughts] == ["Hmm."]


def test_dialogue_goes_on_by_its_last_reply() -> None:
    engine(echoes=True)
    agent = Agent(KINDS["responses"]())
    first = agent.run_sync("one")
    settings: Any = {"openai_previous_response_id": "auto"}
    second = agent.run_sync("two", message_history=first.all_messages(), model_settings=settings)
    assert second.output == "re: two "
    assert [one["content"] for one in last_messages()] == ["one", "re: one ", "two"]


def test_errors_have_the_packages_class(model: Any) -> None:
    with pytest.raises(ModelHTTPError, match="status_code: 404") as unknown:
        Agent(model("nobody")).run_sync("Hi")
    assert unknown.value.body["code"] == "model_not_found"
    with pytest.raises(ModelHTTPError, match="status_code: 400") as picture:
        Agent(model()).run_sync(["Look.", BinaryContent(b"abc", media_type="image/png")])
    assert picture.value.body["code"] == "unsupported"


def test_embeddings() -> None:
    embedder = Embedder(OpenAIEmbeddingModel(MODEL, provider=OPENAI))
    assert len(embedder.embed_documents_sync(["a b", "c"]).embeddings) == 2
