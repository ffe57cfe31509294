"""Dialogues that clients go on from by the id of the last reply, read from any edge for as long as replies are kept."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from callboard_contracts.chat import ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.kept import KeptDialogue
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.ports import Background, ResultStore
from callboard_edge.domain.running_replies import reply_name

log = logging.getLogger(__name__)

RESULT_WAIT_S = 3.0
"""How long a reply may take to be kept once its end was sent."""
RESULT_POLL_S = 0.05
GRACE_S = 10.0
"""How long after its deadline a reply may still come."""


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Keeps dialogues under the ids of their replies, each for the one caller who began it.

    `now` is the Unix time that jobs are stamped with.
    """

    store: ResultStore
    background: Background
    max_bytes: int
    now: Callable[[], float]

    def check_size(self, dialogue: KeptDialogue) -> None:
        """Refuses what cannot be kept.

        Raises:
            CallboardError: `body_too_large`.
        """
        if len(dialogue.compact()) > self.max_bytes:
            raise CallboardError(
                ErrorCode.BODY_TOO_LARGE, f"The dialogue is larger than the {self.max_bytes} bytes that can be kept."
            )

    def keep(self, caller: Caller, reply_id: str, dialogue: KeptDialogue) -> "asyncio.Task[None]":
        """Begins to keep a dialogue; one that cannot be kept is not found later."""
        return self.background.start(self._put(reply_name(caller, reply_id), dialogue), "keep-dialogue")

    async def find(self, caller: Caller, reply_id: str) -> KeptDialogue | None:
        """The caller's own dialogue up to a reply; None where there is none, or no longer. Raises CallboardError."""
        found = await self.store.dialogue(reply_name(caller, reply_id))
        return None if found is None or found.deleted else found

    async def result(self, dialogue: KeptDialogue) -> ChatResult | None:
        """The reply that ends a dialogue, None while it is being written. Raises CallboardError."""
        until = asyncio.get_running_loop().time() + RESULT_WAIT_S
        while True:
            found = await self.store.result(dialogue.request_id)
            if found is not None or asyncio.get_running_loop().time() >= until:
                return found
            await asyncio.sleep(RESULT_POLL_S)

    def is_lost(self, dialogue: KeptDialogue) -> bool:
        """Whether a reply that is not there will not come any more."""
        return self.now() > dialogue.deadline_at + GRACE_S

    async def delete(self, caller: Caller, reply_id: str, dialogue: KeptDialogue) -> None:
        """Takes a dialogue back; raises CallboardError."""
        gone = dialogue.model_copy(update={"messages": (), "shown": {}, "deleted": True})
        await self.store.put_dialogue(reply_name(caller, reply_id), gone)

    async def _put(self, name: str, dialogue: KeptDialogue) -> None:
        try:
            await self.store.put_dialogue(name, dialogue)
        except CallboardError as error:
            log.warning("dialogue_not_kept", extra={"request_id": dialogue.request_id, "error": error.info.code.value})
