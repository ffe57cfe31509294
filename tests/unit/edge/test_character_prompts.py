"""What a character's model is given, and who is taken to speak to it."""

from dataclasses import replace
from typing import Any

import pytest

from callboard_contracts.characters import Character
from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling, Tool
from callboard_contracts.pools import ChatSection
from callboard_edge.domain.catalogue import ChatModel, chat_catalogue
from callboard_edge.domain.character_prompts import (
    SpokenLine,
    opening_request,
    prefix,
    rendered,
    spoken_line,
    without_memory,
)

pytestmark = pytest.mark.unit

OWL = chat_catalogue(
    ChatSection.model_validate({"pools": {"main": {"backend": "fake"}}, "models": {"owl": {"pool": "main"}}})
).resolve("owl")


def mira(**fields: Any) -> Character:
    return Character.model_validate({"name": "mira", "display_name": "Mira", **fields})


def as_model(character: Character) -> ChatModel:
    return replace(OWL, name="character/mira", character=character, base=OWL)


def chat(*texts: str, **fields: Any) -> ChatRequest:
    roles = ("user", "assistant")
    messages = [ChatMessage(role=roles[n % 2], content=text) for n, text in enumerate(texts)]
    return ChatRequest.model_validate(
        {"model": "character/mira", "messages": messages, "max_output_tokens": 50, **fields}
    )


def completion(prompt: str, **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate(
        {"mode": "completion", "model": "character/mira", "prompt": prompt, "max_output_tokens": 50, **fields}
    )


def test_default_prefix_has_every_placeholder_and_evennias_words_where_nothing_is_said() -> None:
    character = mira(desc="a tired miller", location="the mill")
    assert prefix(character, "Ada") == (
        "You are Mira, a tired miller, and you are in the mill. Stay in this role, answer with short sentences, and "
        "say only what Mira would say. Ada speaks to you."
    )
    assert prefix(mira(), "Ada").startswith("You are Mira, someone, and you are in the void.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{name} and {character} at {location}: {desc}", "Mira and Ada at the mill: miller"),
        ("{unknown} {} { name } {Name} {{name}} {0} {name!r}", "{unknown} {} { name } {Name} {{name}} {0} {name!r}"),
        ("{{char}} <BOT> <bot> {{User}} <USER> <char>", "Mira Mira Mira Ada Ada Mira"),
        ('{"json": {"a": 1}}', '{"json": {"a": 1}}'),
    ],
)
def test_only_the_placeholders_and_macros_are_filled_in(text: str, expected: str) -> None:
    assert rendered(text, mira(desc="miller", location="the mill"), "Ada") == expected


def test_names_are_not_read_as_placeholders() -> None:
    character = mira(desc="knows {{user}} and {name}", prompt="{character}: {desc}")
    assert prefix(character, "{desc}") == "{desc}: knows {desc} and {name}"


def test_example_dialogue_follows_the_prefix() -> None:
    character = mira(prompt="Be {name}.", example_dialogue="<START>\n{{user}}: Hi\n{{char}}: Hm.\n")
    assert prefix(character, "Ada") == "Be Mira.\n\nExample dialogue:\n<START>\nAda: Hi\nMira: Hm."


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (chat("Hi", speaker="Ada"), SpokenLine("Ada", "Hi")),
        (chat("one", "two", " three ", speaker=" Ada \n B\x00"), SpokenLine("Ada B", "three")),
        (chat("Hi"), None),
        (chat("Hi", "Hello", speaker="Ada"), None),
        (chat(" ", speaker="Ada"), None),
        (chat("Hi", speaker="Ada", tools=[Tool(name="f")]), None),
        (completion("You are Mo.\nAda: Is it ready?"), SpokenLine("Ada", "Is it ready?")),
        (completion("You are Mo.\nAda: Is it ready?\n"), SpokenLine("Ada", "Is it ready?")),
        (completion("Ada: Hi\nMira:"), None),
        (completion("Ada: Hi\nMira: Well"), None),
        (completion("Once upon a time"), None),
        (completion("Once upon a time", speaker="Ada"), SpokenLine("Ada", "Once upon a time")),
        (completion("Bo: Hi", speaker="Ada"), SpokenLine("Ada", "Hi")),
        (completion("{{[INPUT]}}Ada: Hi", turn_tags=True), None),
        (completion("You are Mo.\nAda: Hi", turn_tags=True), SpokenLine("Ada", "Hi")),
    ],
)
def test_last_line_and_its_speaker_are_told(request_: ChatRequest, expected: SpokenLine | None) -> None:
    assert spoken_line(request_, mira()) == expected


def test_name_of_the_last_message_is_a_speaker() -> None:
    request = ChatRequest(
        model="x", messages=(ChatMessage(role="user", content="Hi", name="Ada"),), max_output_tokens=5
    )
    assert spoken_line(request, mira()) == SpokenLine("Ada", "Hi")


def test_request_without_a_memory_has_the_prefix_before_the_clients_own_messages() -> None:
    system = ChatMessage(role="system", content="Be brief.")
    request = chat("one", "two", "three")
    served, model = without_memory(
        request.model_copy(update={"messages": (system, *request.messages)}), as_model(mira(prompt="Be {name}."))
    )
    assert model is OWL
    assert served.model == "owl"
    assert [one.content for one in served.messages] == ["Be Mira.\n\nBe brief.", "one", "two", "three"]


def test_completion_without_a_memory_has_the_prefix_before_the_prompt_or_in_what_is_never_cut() -> None:
    model = as_model(mira(prompt="Be {name}."))
    assert without_memory(completion("Once"), model)[0].prompt == "Be Mira.\nOnce"
    served = without_memory(completion("Once", overflow="drop_front", memory="World"), model)[0]
    assert (served.memory, served.prompt) == ("Be Mira.\nWorld", "Once")


def test_plain_character_has_its_dialogue_as_lines() -> None:
    model = as_model(mira(prompt="Be {name}.", prompt_format="plain"))
    served, _model = without_memory(chat("one", "two", "three", speaker="Ada"), model)
    assert (served.mode, served.prompt) == ("completion", "Be Mira.\nAda: one\nMira: two\nAda: three\nMira:")
    assert served.sampling.stop == ("\nAda:",)
    opening = opening_request(chat("Hi", speaker="Ada"), model, "Ada")
    assert (opening.mode, opening.prompt, opening.messages) == ("completion", "Be Mira.", ())
    assert opening.sampling.stop == ("\nAda:", "\nMira:")


def test_settings_of_the_client_come_before_those_of_the_character() -> None:
    character = mira(sampling=Sampling(temperature=0.3, top_k=5, stop=("X",)), prompt_format="chatml")
    asked = chat("Hi", sampling=Sampling(temperature=1.0, stop=("Y",)))
    served = opening_request(asked, as_model(character), "Ada")
    assert (served.sampling.temperature, served.sampling.top_k, served.sampling.stop) == (1.0, 5, ("X", "Y"))
    assert served.prompt_format == "chatml"
    assert [one.role for one in served.messages] == ["system"]


def test_other_models_are_left_alone() -> None:
    request = chat("Hi")
    assert without_memory(request, OWL) == (request, OWL)


@pytest.mark.parametrize(("own", "models", "expected"), [(None, "pygmalion", "Mira"), ("own", "pygmalion", None)])
def test_form_with_names_has_the_names(own: Any, models: Any, expected: str | None) -> None:
    model = replace(as_model(mira(prompt_format=own)), prompt_format=models)
    asked = opening_request(chat("Hi", speaker="Ada"), model, "Ada")
    assert (asked.messages[0].name, asked.prompt_format) == (expected, own or models)


def test_prompt_of_the_clients_own_is_no_part_of_a_dialogue_that_is_remembered() -> None:
    asked = completion("World.\nAda: {{[INPUT]}}", memory="Lore.", turn_tags=True, overflow="drop_front")
    opening = opening_request(asked, as_model(mira(prompt="Be {name}.")), "Ada")
    assert (opening.memory, opening.prompt, opening.turn_tags, opening.overflow) == ("", "", False, "refuse")
