"""The kept results of turns."""

from callboard_contracts import subjects
from callboard_contracts.chat import ChatEnd, ChatResult
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.rooms import Turn
from callboard_kit.bus import Bus, BusError
from callboard_kit.kept import keep, kept
from callboard_rooms.domain.ports import StoreUnavailable


class BusTurnResults:
    """Reads what workers keep; see `TurnResults`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def read(self, turn_id: str) -> ChatResult | None:
        """How a turn ended, or None."""
        try:
            return await kept(self._bus, subjects.result(turn_id), ChatResult)
        except BusError as error:
            raise StoreUnavailable("no answer in time") from error

    async def keep_error(self, turn: Turn, error: ErrorInfo | None) -> None:
        """Keeps that a turn ended without a worker."""
        end = ChatEnd(reason="error", error=error) if error else ChatEnd(reason="cancelled")
        model = turn.request.model if turn.request else ""
        result = ChatResult(request_id=turn.id, model=model, text="", end=end)
        try:
            await keep(self._bus, subjects.result(turn.id), result, f"{turn.id}.result")
        except BusError as failed:
            raise StoreUnavailable("no acknowledgement in time") from failed
