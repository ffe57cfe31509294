"""What workers say of their models, remembered for a while, since clients list models often."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError
from callboard_contracts.tokens import DescribeModelReply
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.model_inquiries import ModelQuestions
from callboard_edge.domain.workers import Workers

REMEMBERED_S = 60.0
RETRY_S = 10.0
WAIT_S = 2.0
MAX_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class _Known:
    reply: DescribeModelReply
    until_s: float


class Descriptions:
    """Describes models; one of which nobody says anything has an empty description."""

    def __init__(self, questions: ModelQuestions, workers: Workers) -> None:
        self._questions = questions
        self._workers = workers
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    async def of(self, model: ChatModel) -> DescribeModelReply:
        """What the model's workers say of it, or said within the last minute."""
        key = (model.pool, model.served_name)
        known = self._known.get(key)
        if known is not None and known.until_s > time.monotonic():
            return known.reply
        if not self._workers.count("chat", model.pool):
            return known.reply if known is not None else DescribeModelReply()
        kept_s = REMEMBERED_S
        try:
            async with asyncio.timeout(WAIT_S):
                reply = await self._questions.description(model)
        except (CallboardError, TimeoutError):
            reply, kept_s = known.reply if known is not None else DescribeModelReply(), RETRY_S
        self._known[key] = _Known(reply, time.monotonic() + kept_s)
        self._known.move_to_end(key)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return reply
