"""A chat reply as its reader sees it: one continuous stream of frames."""

import time
from collections.abc import Sequence

from callboard_contracts.chat import ChatFrame, ChatJob, ChatRequest, InterestReply, InterestRequest
from callboard_contracts.quota import ReserveReply
from callboard_edge.domain.job_stream import Dependencies, JobStream
from callboard_edge.domain.ports import Inbox, JobRef
from callboard_edge.domain.reorder import TextReorderBuffer


class Reply(JobStream[ChatFrame]):
    """A chat request and the reply to it; the last frame that `take` returns has the end."""

    def __init__(self, deps: Dependencies, request_id: str, life_s: float, request: ChatRequest, pool: str) -> None:
        self._assembly = TextReorderBuffer()
        self._ready: list[ChatFrame] = []
        self._request = request
        self._pool = pool
        self._life_s = life_s
        super().__init__(deps, request_id, life_s)

    def _open(self) -> Inbox[ChatFrame]:
        return self._deps.replies.open_chat(self.request_id, self.on_interest)

    async def _post(self, reply: ReserveReply) -> JobRef:
        now = time.time()
        job = ChatJob(
            request_id=self.request_id,
            edge=self._deps.replies.edge,
            tenant=reply.tenant,
            request=self._request,
            hold=reply.hold,
            created_at=now,
            deadline_at=now + self._life_s,
        )
        return await self._deps.jobs.enqueue_chat(job, self._pool)

    def _take_ready(self) -> Sequence[ChatFrame]:
        self._absorb()
        ready, self._ready = self._ready, []
        return ready

    def _absorb(self) -> None:
        if frames := self._inbox.drain():
            self._ready += self._assembly.feed(frames)

    async def _refill(self) -> bool:
        frames = await self._deps.replies.replay_chat(self.request_id)
        self._absorb()
        self._ready += self._assembly.feed(frames)
        if not self._ready and not self.ended:
            result = await self._deps.replies.result(self.request_id)
            self._absorb()
            if result is not None and not self.ended:
                self._ready.append(self._assembly.complete(result))
        return bool(self._ready)

    @property
    def ended(self) -> bool:
        """Whether the reply's end is here."""
        return self._assembly.end is not None

    @property
    def _missing(self) -> bool:
        return self._assembly.missing

    def _progress(self, request: InterestRequest) -> InterestReply:
        if request.resume or request.attempt > self._assembly.attempt:
            # What came before a new attempt shows itself still counts, so it is taken in first.
            self._absorb()
            self._assembly.announce(request.attempt)
        if not request.resume:
            return InterestReply(open=True, attempt=self._assembly.attempt)
        return InterestReply(
            open=not self.ended,
            attempt=self._assembly.attempt,
            next_seq=self._assembly.next_seq,
            text=self._assembly.text,
            thinking=self._assembly.thinking,
            tokens=self._assembly.tokens,
        )
