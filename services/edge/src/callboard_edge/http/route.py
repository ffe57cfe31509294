"""What a handler module offers: routes, with what the API document says of them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from callboard_edge.http.call import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One kind of answer, for the API document; `model` describes a JSON body."""

    description: str
    model: type[BaseModel] | None = None
    media_types: tuple[str, ...] = ("application/json",)


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path; `{name}` in a path matches one segment, `{name:path}` at its end all that follow.

    `body` is the model of a JSON request, `form` that of one with a file, `query` that of what follows the path,
    `security` what opens it: a caller's key, the admin token, or nothing. `name` is the fixed word that stands for the
    route in metrics. `max_body_bytes` takes the place of the site's limit on bodies. A route with a `header` is for
    requests that carry it, one with a `media_type` for those whose `Accept` names it, HEAD not among them; both stand
    before another of the same method and path.
    """

    method: Method
    path: str
    handler: Handler
    name: str
    summary: str
    tag: str = ""
    body: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    security: Literal["key", "admin", "none"] = "key"
    answers: Mapping[int, Answer] = field(default_factory=dict)
    documented: bool = True
    max_body_bytes: int | None = None
    header: str | None = None
    media_type: str | None = None
