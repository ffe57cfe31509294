"""The reply to a turn of a room as its reader sees it: the frames come straight from the worker."""

from collections.abc import Sequence
from typing import Any

from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.errors import CallboardError
from callboard_contracts.rooms import CancelTurn
from callboard_edge.domain.submission import Submission
from callboard_edge.domain.text_stream import TextSource, TextStream

CANCEL_ATTEMPTS = 2


class TurnStream(TextStream):
    """A turn's chat job; leaving it before its end gives up the turn.

    Its room then does not remember it, or what was heard of it where the reader says so.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.posted: CancelTurn | None = None
        """The turn as its room knows it, once it is known whose room that is."""

    async def _withdraw(self, submission: Submission) -> None:
        del submission
        heard = None if self.heard is None else self.heard()
        for attempt in range(CANCEL_ATTEMPTS):
            try:
                if self.posted is not None:
                    await self._deps.rooms.cancel(self.posted.model_copy(update={"heard": heard}))
            except CallboardError:
                # The rooms service is away; the turn ends by itself and is remembered, as if its client had stayed.
                if attempt == CANCEL_ATTEMPTS - 1:
                    return
            else:
                return


class RepeatedSource(TextSource):
    """The reply to a turn that somebody else posted: its kept result, once there is one."""

    def __init__(self, *arguments: Any, turn_id: str) -> None:
        self._turn_id = turn_id
        super().__init__(*arguments)

    async def replay(self) -> Sequence[ChatFrame]:
        """Nothing: whoever posted the turn has its frames."""
        return ()

    async def result(self) -> ChatResult | None:
        """How the turn ended."""
        return await self._replies.result(self._turn_id)
