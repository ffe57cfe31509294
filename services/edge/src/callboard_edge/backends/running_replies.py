"""Replies that other edges write, found by the names that their clients gave them."""

import logging
from collections.abc import Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.running import RunningReply, RunningReplyRequest
from callboard_kit.bus import Bus, BusError

log = logging.getLogger(__name__)

ANSWER_WAIT_S = 0.25
"""How long the edge that has a reply has to say so; the others are silent."""
MAX_ANSWER_BYTES = 512 * 1024
"""An answer that is larger goes without log probabilities."""

Answer = Callable[[RunningReplyRequest], RunningReply | None]


class BusRunningReplies:
    """Asks all edges, and answers them for this one; see `RunningReplies`."""

    def __init__(self, bus: Bus, wait_s: float = ANSWER_WAIT_S) -> None:
        self._bus = bus
        self._wait_s = wait_s
        self._subscription: Subscription | None = None

    async def start(self, answer: Answer) -> None:
        """Answers others from now on, where `answer` does."""

        async def take(message: Msg) -> None:
            await self._reply(message, answer)

        self._subscription = await self._bus.subscribe(subjects.RUNNING_REPLY, take)

    async def close(self) -> None:
        """Ends the subscription."""
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    async def ask(self, request: RunningReplyRequest) -> RunningReply | None:
        """The answer of the edge that has the reply, None where none has."""
        try:
            answer = await self._bus.request(subjects.RUNNING_REPLY, request.encoded(), self._wait_s)
            return RunningReply.model_validate_json(answer)
        except (BusError, ValidationError):
            return None

    async def _reply(self, message: Msg, answer: Answer) -> None:
        try:
            reply = answer(RunningReplyRequest.model_validate_json(message.data))
            if reply is None or not message.reply:
                return
            body = reply.encoded()
            if len(body) > MAX_ANSWER_BYTES:
                body = reply.model_copy(update={"logprobs": ()}).encoded()
            await self._bus.publish(message.reply, body)
        except ValidationError:
            log.warning("running_reply_malformed")
        except BusError:
            log.warning("running_reply_unanswered")
