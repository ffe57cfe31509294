"""Fields of clients that write them as they like: numbers in text, `null` for what is left out, values out of range."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from callboard_contracts.chat import Sampling

MOST = 2**53
"""Whole numbers are brought between this and its negative."""
LEAST_REPETITION_PENALTY = 0.01


def _number(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip()
        return float(text) if text else None
    return value


def _whole(value: Any) -> Any:
    number = _number(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return number
    if number != number:
        raise ValueError("not a number")
    return int(max(-MOST, min(MOST, number)))


def _texts(value: Any) -> Any:
    """Texts in a list, alone, or as the JSON text of a list; those that are empty are left out."""
    if isinstance(value, str):
        try:
            found = json.loads(value) if value.lstrip().startswith("[") else value
        except (ValueError, RecursionError):
            found = value
        value = found if isinstance(found, list) else [value]
    if not isinstance(value, list):
        return value
    return [one for one in value if one not in ("", None)]


Number = Annotated[float | None, BeforeValidator(_number), WithJsonSchema({"type": ["number", "string", "null"]})]
Whole = Annotated[int | None, BeforeValidator(_whole), WithJsonSchema({"type": ["number", "string", "null"]})]
Flag = bool | None
_TEXTS_SCHEMA = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}, {"type": "null"}]}
Texts = Annotated[list[str] | None, BeforeValidator(_texts), WithJsonSchema(_TEXTS_SCHEMA)]


class LenientBody(BaseModel):
    """The base of requests whose fields are taken as loosely as such clients write them."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


def within(name: str, value: float) -> float:
    """A value brought into the range of a sampling field."""
    for bound in Sampling.model_fields[name].metadata:
        if (least := getattr(bound, "ge", None)) is not None:
            value = max(value, least)
        if (most := getattr(bound, "le", None)) is not None:
            value = min(value, most)
    if name == "repetition_penalty":
        return max(value, LEAST_REPETITION_PENALTY)
    return max(0, min(2, value)) if name == "mirostat" else value
