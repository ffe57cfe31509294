"""Instructor, in each of its modes."""

from collections.abc import Iterable
from typing import Any

import anthropic
import instructor
import openai
import pytest
from board import BASE, KEY, MODEL, PLACE, ROOT, engine
from instructor import Mode
from instructor.core import InstructorRetryException
from pydantic import BaseModel


class Place(BaseModel):
    city: str
    people: int


OSLO = {"city": "Oslo", "people": 3}
CALL = {"name": "Place", "arguments": OSLO}
ASKED: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Name a city."}], "max_retries": 1}


def client(mode: Mode = Mode.TOOLS) -> Any:
    return instructor.from_openai(openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0), mode=mode)


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.RESPONSES_TOOLS], ids=str)
def test_object_by_function(mode: Mode) -> None:
    engine(tool_call=CALL)
    assert client(mode).create(response_model=Place, **ASKED).model_dump() == OSLO


@pytest.mark.parametrize("mode", [Mode.JSON, Mode.MD_JSON, Mode.JSON_SCHEMA], ids=str)
def test_object_by_text(mode: Mode) -> None:
    engine(reply=PLACE)
    found, raw = client(mode).create_with_completion(response_model=Place, **ASKED)
    assert (found.model_dump(), raw.usage.total_tokens) == (OSLO, 9)
    *_, streamed = client(mode).create_partial(response_model=Place, **ASKED)
    assert streamed.model_dump() == OSLO


def test_parallel_calls() -> None:
    engine(tool_call=CALL)
    found = client(Mode.PARALLEL_TOOLS).create(response_model=Iterable[Place], **ASKED)
    assert [one.model_dump() for one in found] == [OSLO]


def test_object_by_anthropic() -> None:
    engine(tool_call=CALL)
    one: Any = instructor.from_anthropic(anthropic.Anthropic(base_url=ROOT, api_key=KEY, max_retries=0))
    assert one.create(response_model=Place, max_tokens=50, **ASKED).model_dump() == OSLO


def test_errors_name_their_cause() -> None:
    with pytest.raises(InstructorRetryException, match="model_not_found"):
        client().create(response_model=Place, **{**ASKED, "model": "nobody"})
