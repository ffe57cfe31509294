"""What a session of `/v1/realtime` has done by others: sounds written down, and responses given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from callboard_edge.protocols.openai.realtime_items import Item, Part
from callboard_edge.protocols.openai.realtime_response import CancelReason, Response
from callboard_edge.protocols.openai.realtime_settings import SessionSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """A response that is to be given, and what its model reads: the conversation, or items of the client's own."""

    response: Response
    input: Sequence[Item] | None = None


class Work(Protocol):
    """What a session has done by others."""

    def check(self, settings: SessionSettings) -> str:
        """The model that the settings name by this or another name; raises CallboardError for what is not served."""
        ...

    def recognise(self, item: Item, part: Part, pcm: bytes) -> None:
        """Begins to write down a sound of the session's form; `heard` or `not_heard` is called at its end."""
        ...

    def recognise_encoded(self, item: Item, part: Part, sound: str, param: str) -> None:
        """The same for a sound that a client sent as base64; raises CallboardError where it is none."""
        ...

    def turn_ended(self, silence_ms: int, *, detected: bool) -> None:
        """Notes when somebody stopped to speak, so long ago."""
        ...

    def respond(self, plan: Plan) -> None:
        """Begins to give a response."""
        ...

    def stop(self, response: Response, reason: CancelReason) -> None:
        """Ends the work for a response at once."""
        ...
