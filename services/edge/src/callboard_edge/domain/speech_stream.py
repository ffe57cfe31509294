"""A spoken text as its reader sees it: one continuous stream of audio segments."""

import time
from collections.abc import Sequence

from callboard_contracts.chat import InterestReply, InterestRequest
from callboard_contracts.quota import ReserveReply
from callboard_contracts.speech import SpeechJob, SpeechRequest
from callboard_edge.domain.job_stream import Dependencies, JobStream
from callboard_edge.domain.ports import Inbox, JobRef, Segment
from callboard_edge.domain.reorder import SpeechReorderBuffer


class Utterance(JobStream[Segment]):
    """A speech request and its audio; the last segment that `take` returns has the end and no PCM."""

    def __init__(self, deps: Dependencies, request_id: str, life_s: float, request: SpeechRequest, pool: str) -> None:
        self._assembly = SpeechReorderBuffer()
        self._ready: list[Segment] = []
        self._request = request
        self._pool = pool
        self._life_s = life_s
        super().__init__(deps, request_id, life_s)

    def _open(self) -> Inbox[Segment]:
        return self._deps.replies.open_audio(self.request_id, self.on_interest)

    async def _post(self, reply: ReserveReply) -> JobRef:
        now = time.time()
        edge = self._deps.replies.edge
        job = SpeechJob(
            request_id=self.request_id,
            edge=edge,
            tenant=reply.tenant,
            room=edge,
            utterance=self.request_id,
            request=self._request,
            hold=reply.hold,
            created_at=now,
            deadline_at=now + self._life_s,
        )
        return await self._deps.jobs.enqueue_speech(job, self._pool)

    def _take_ready(self) -> Sequence[Segment]:
        self._absorb()
        ready, self._ready = self._ready, []
        return ready

    def _absorb(self) -> None:
        if segments := self._inbox.drain():
            self._ready += self._assembly.feed(segments)

    async def _refill(self) -> bool:
        segments = await self._deps.replies.replay_audio(self.request_id, self._assembly.next_n)
        self._ready += self._assembly.feed(segments)
        return bool(self._ready)

    @property
    def ended(self) -> bool:
        """Whether the utterance's end is here."""
        return self._assembly.ended

    @property
    def _missing(self) -> bool:
        return self._assembly.missing

    def _progress(self, request: InterestRequest) -> InterestReply:
        if request.resume or request.attempt > self._assembly.attempt:
            self._absorb()
            self._assembly.announce(request.attempt)
        return InterestReply(open=True, attempt=self._assembly.attempt, next_seq=self._assembly.next_n)
