"""Replies that clients read, or stop, by keys of their own while they are written."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from callboard_contracts.chat import ChatFrame, TokenLogprob
from callboard_contracts.running import RunningReply, RunningReplyRequest
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.ports import RunningReplies
from callboard_edge.domain.text_stream import TextStream

T = TypeVar("T")

FINISHED_LIFE_S = 60.0
"""How long the log probabilities of a reply can be asked for once it has ended."""
STOP_LIFE_S = 5.0
"""How long the order to stop a reply that is not known is kept: it may have overtaken the request."""
MAX_REMEMBERED = 1024
"""How many ended replies, and how many early orders to stop, are remembered."""


def reply_name(caller: Caller, key: str) -> str:
    """The name of a reply for all edges, made of who asks and of the client's key, so that nobody guesses another's."""
    who = f"key {caller.key_digest}" if caller.key_digest else f"address {caller.address}"
    return hashlib.sha256(f"{who} {key}".encode("utf-8", "surrogatepass")).hexdigest()


class FollowedReply:
    """One reply: what there is of it, and the order to stop it.

    One with several choices has several streams; the first is read, and all are stopped.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._streams: list[TextStream] = []
        self.logprobs: list[TokenLogprob] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    def follow(self, stream: TextStream) -> None:
        """Takes note of what a stream brings from now on."""
        if not self._streams:
            stream.on_frames = self._take
        self._streams.append(stream)
        if self.stopped:
            stream.stop()

    def stop(self) -> None:
        """Ends the reply where it stands."""
        self.stopped = True
        for stream in self._streams:
            stream.stop()

    def _take(self, frames: Sequence[ChatFrame]) -> None:
        for frame in frames:
            self._text.append(frame.text)
            self.logprobs += frame.logprobs


class FollowedReplies:
    """The replies of this edge by their names, and those of `others`.

    Of several that run under one name none can be read, and all are stopped.
    """

    def __init__(self, others: RunningReplies | None = None) -> None:
        self._others = others
        self._running: dict[str, list[FollowedReply]] = {}
        self._finished = _Remembered[tuple[TokenLogprob, ...]](FINISHED_LIFE_S)
        self._stops = _Remembered[bool](STOP_LIFE_S)

    @property
    def count(self) -> int:
        """How many replies are being written."""
        return sum(map(len, self._running.values()))

    @contextmanager
    def running(self, name: str) -> Generator[FollowedReply]:
        """A reply that can be found by its name for as long as the context is open."""
        reply = FollowedReply()
        self._finished.pop(name)
        if self._stops.pop(name):
            reply.stop()
        self._running.setdefault(name, []).append(reply)
        try:
            yield reply
        finally:
            left = [one for one in self._running.pop(name) if one is not reply]
            if left:
                self._running[name] = left
            else:
                self._finished.put(name, tuple(reply.logprobs))

    async def ask(self, request: RunningReplyRequest) -> RunningReply:
        """The answer of the edge that has the reply; where none has, a reply that is not running.

        An order to stop what no edge knows is kept for a moment. One that an edge has obeyed is not: clients use a key
        again.
        """
        reply = self.answer(request)
        if reply is None and self._others is not None:
            reply = await self._others.ask(request)
        if reply is not None:
            return reply
        if request.action == "stop" and request.name not in self._running:
            self._stops.put(request.name, True)
        return self.answer(request) or RunningReply()

    def answer(self, request: RunningReplyRequest) -> RunningReply | None:
        """This edge's own answer, None where it does not know the reply."""
        found = self._running.get(request.name)
        if found is None:
            logprobs = self._finished.get(request.name)
            return None if logprobs is None else RunningReply(logprobs=logprobs)
        if request.action == "stop":
            for each in found:
                each.stop()
            return RunningReply(running=True, stopped=True)
        if len(found) > 1:
            return RunningReply()
        reply = found[0]
        return RunningReply(running=True, text=reply.text, logprobs=tuple(reply.logprobs))


class _Remembered(Generic[T]):
    """Values by name for a while; the oldest go first where there are too many."""

    def __init__(self, life_s: float) -> None:
        self._life_s = life_s
        self._values: OrderedDict[str, tuple[T, float]] = OrderedDict()

    def put(self, name: str, value: T) -> None:
        self.pop(name)
        self._values[name] = (value, time.monotonic() + self._life_s)
        while len(self._values) > MAX_REMEMBERED:
            self._values.popitem(last=False)

    def get(self, name: str) -> T | None:
        self._forget_old()
        found = self._values.get(name)
        return None if found is None else found[0]

    def pop(self, name: str) -> T | None:
        self._forget_old()
        found = self._values.pop(name, None)
        return None if found is None else found[0]

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._values and next(iter(self._values.values()))[1] <= now:
            self._values.popitem(last=False)
