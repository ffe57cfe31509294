"""Checks JSON bodies, and says of a wrong one which field is at fault."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from callboard_contracts.errors import CallboardError, ErrorCode

M = TypeVar("M", bound=BaseModel)

MAX_DEPTH = 200
"""How deep objects and lists may be nested; pydantic's own limit."""
MAX_CONTAINERS = 8192
MAX_VALUES = 65_536
"""A body of so many objects, lists and other values takes some 30 ms to check, in which the event loop stands still."""
# Whatever follows a quote is a match, so that no byte is looked at twice.
_STRING = re.compile(rb'"(?:[^"\\]|\\.?)*+"?', re.DOTALL)

TAG = "~"
"""Begins the tags of unions, which are no part of a field's name."""
_FORM = re.compile(r"(?:float|int|str|bool|constrained-\w+|(?:function|literal|list|dict)[-\[].*)")
"""What pydantic calls the forms of a union without tags."""


def text_or_list(value: Any) -> str | None:
    """Tells the forms of a field apart by their JSON type, so that an error names the field and not the form."""
    if isinstance(value, str):
        return f"{TAG}text"
    return f"{TAG}list" if isinstance(value, (list, tuple)) else None


class Body(BaseModel):
    """The base of JSON requests: types are taken strictly, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


class AnswerBody(BaseModel):
    """The base of JSON answers, for the API document."""

    model_config = ConfigDict(extra="allow")


def _whole(value: Any) -> Any:
    """Some JSON writers send whole numbers as 16.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


def parse(model: type[M], raw: bytes) -> M:
    """Reads a body as a model.

    Raises:
        CallboardError: `invalid_request`, with the first field at fault as `param`.
    """
    try:
        return validated(model, raw)
    except ValidationError as error:
        raise _invalid(error) from None


def validated(model: type[M], raw: bytes) -> M:
    """Reads a body as a model, for protocols that show each field at fault in their own form.

    Raises:
        CallboardError: `invalid_request`, for a body that would take too long to check.
        ValidationError: the fields at fault.
    """
    if len(raw) > MAX_CONTAINERS and _is_large(raw) and _is_large(_STRING.sub(b"", raw, 2 * MAX_VALUES)):
        raise CallboardError(
            ErrorCode.INVALID_REQUEST,
            f"The body holds more than {MAX_CONTAINERS} objects and lists, or more than {MAX_VALUES} values.",
        )
    return model.model_validate_json(raw)


def _is_large(text: bytes) -> bool:
    return text.count(b"{") + text.count(b"[") > MAX_CONTAINERS or text.count(b",") > MAX_VALUES


def parse_query(model: type[M], query: Mapping[str, object]) -> M:
    """Reads what stands behind the question mark of a path as a model; raises as `parse` does."""
    try:
        return model.model_validate(dict(query))
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> CallboardError:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        deep = "recursion limit" in first["msg"]
        return CallboardError(
            ErrorCode.INVALID_REQUEST,
            f"The body is nested too deeply: its depth is over the limit of {MAX_DEPTH} objects and lists."
            if deep
            else "The body is not valid JSON.",
        )
    param = _param(_field([one["loc"] for one in errors]))
    if not param:
        return CallboardError(ErrorCode.INVALID_REQUEST, "The body must be a JSON object.")
    if first["type"] == "missing":
        return CallboardError(ErrorCode.INVALID_REQUEST, f"Missing required field: '{param}'.", param=param)
    message = first["msg"].removeprefix("Value error, ").replace(" after validation", "")
    return CallboardError(ErrorCode.INVALID_REQUEST, f"Invalid value for '{param}': {message}.", param=param)


def _field(locs: list[tuple[int | str, ...]]) -> tuple[int | str, ...]:
    """The place of the first field at fault; one that fits none of several forms is listed once for each of them."""
    first, *others = locs
    form = first[-1] if first else None
    if isinstance(form, str) and _FORM.fullmatch(form) and any(loc[:-1] == first[:-1] for loc in others):
        return first[:-1]
    return first


def _param(loc: tuple[int | str, ...]) -> str:
    """A field's place as OpenAI writes it, such as `messages[0].content`."""
    found = ""
    for part in loc:
        if isinstance(part, int):
            found += f"[{part}]"
        elif not part.startswith(TAG):
            found += f".{part}" if found else part
    return found
