"""Jobs that wait for volunteers: handed out by pops, answered by submits, given back by failures."""

import asyncio
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from callboard_chat.domain.posted_job import Handout, PostedJob, Reward, estimated_tokens
from callboard_chat.domain.recent_entries import RecentEntries
from callboard_chat.domain.suspicions import Suspicions
from callboard_chat.domain.volunteer_matching import WaitingJob, WaitingJobs
from callboard_contracts.volunteers import (
    ID_MARK,
    HandedJob,
    PopReply,
    PopRequest,
    ServedBy,
    SubmitReply,
    Suspicion,
    VolunteerOffer,
)

MAX_FAULTS = 3
"""So many volunteers may fail on a job; then its request fails."""
S_PER_TOKEN = 0.5
"""How long a volunteer may take for each token that it may write, beside the time that every job has."""
REMEMBERED_WORKERS = 2048
REMEMBERED_ENDS = 8192
REMEMBERED_POPS = 2048
MAX_PARKED = 2048
"""So many volunteers may wait at once; one more is answered at once."""
_KEY = 16


class TooManyPending(Exception):  # noqa: N818 - a state: another try may help
    """No more jobs may wait."""


@dataclass(eq=False, slots=True)
class _Parked:
    request: PopRequest
    answer: "asyncio.Future[HandedJob]"


class PendingJobs:
    """The jobs of one process; `mark` begins their ids, so that edges find it by them."""

    def __init__(
        self,
        mark: str,
        most_jobs: int,
        clock: Callable[[], float] | None = None,
        reward: Reward = lambda _job, _handout, _text: 0,
    ) -> None:
        self._mark = mark[:ID_MARK]
        self._most_jobs = most_jobs
        self._reward = reward
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._waiting = WaitingJobs()
        self._jobs: dict[WaitingJob, PostedJob] = {}
        self._by_key: dict[str, PostedJob] = {}
        self._handouts: dict[str, Handout] = {}
        self._ended: RecentEntries[str, tuple[str, Literal["duplicate", "aborted"]]] = RecentEntries(REMEMBERED_ENDS)
        self._left: RecentEntries[str, Handout] = RecentEntries(REMEMBERED_ENDS)
        """Hand-outs whose reply ended while they were streamed, such as at a stop sequence."""
        self._pops: RecentEntries[str, list[str]] = RecentEntries(REMEMBERED_POPS)
        self._suspicions = Suspicions()
        self._dropped: RecentEntries[str, int] = RecentEntries(REMEMBERED_WORKERS)
        self._parked: dict[str, _Parked] = {}

    @property
    def waiting(self) -> int:
        """How many jobs wait for a volunteer."""
        return len(self._waiting)

    @property
    def handed_out(self) -> int:
        """How many jobs volunteers have in work."""
        return len(self._handouts)

    @property
    def parked(self) -> int:
        """How many volunteers wait for a job."""
        return len(self._parked)

    def post(
        self,
        request_id: str,
        waiting: WaitingJob,
        payload: Callable[[VolunteerOffer, str], dict[str, Any]],
        max_tokens: int,
        time_s: float,
        said: str = "",
    ) -> PostedJob:
        """Lets a job wait for volunteers; raises TooManyPending."""
        if len(self._jobs) >= self._most_jobs:
            raise TooManyPending
        key = blake2b(request_id.encode(), digest_size=_KEY // 2).hexdigest()
        job = PostedJob(waiting, key, payload, max_tokens, time_s + S_PER_TOKEN * max_tokens, said)
        self._jobs[waiting] = job
        self._by_key[key] = job
        self._offer(job)
        return job

    def withdraw(self, job: PostedJob) -> None:
        """Takes a job back, whoever has it; what its volunteer still submits comes too late."""
        if job.state == "open":
            job.state = "left"
        self._waiting.remove(job.waiting)
        self._jobs.pop(job.waiting, None)
        if self._by_key.get(job.key) is job:
            del self._by_key[job.key]
        if (handout := job.handout) is not None:
            self._close(handout, "aborted")
            if handout.told:
                self._left.put(handout.id, handout)

    def expire(self, job: PostedJob) -> float:
        """Takes a job back whose volunteer ran out of time; returns how long the volunteer has left, or infinity."""
        handout = job.handout
        if handout is None:
            return math.inf
        left_s = handout.until - self._clock()
        if left_s > 0:
            return left_s
        self._dropped.put(handout.by.worker_id, self._dropped.get(handout.by.worker_id, 0) + 1)
        self._fault(handout)
        return math.inf

    def pop(self, request: PopRequest) -> PopReply:
        """Hands out jobs that fit a volunteer."""
        jobs: list[HandedJob] = []
        now = self._clock()
        while len(jobs) < request.amount:
            waiting = self._waiting.take(request.offer, now)
            if waiting is None:
                break
            job = self._jobs[waiting]
            if jobs and job.payload(request.offer, job.said) != jobs[0].payload:
                # A batch has one payload: the texts of one request.
                self._waiting.add(waiting)
                break
            jobs.append(self._hand_out(job, request))
        worker = request.offer.worker_id
        skipped = {} if jobs else self._waiting.skipped(request.offer, now)
        return PopReply(jobs=tuple(jobs), skipped=skipped, dropped=self._dropped.pop(worker, 0))

    async def pop_within(self, request: PopRequest) -> PopReply:
        """Hands out jobs, or waits for one as long as the volunteer does."""
        reply = self.pop(request)
        if reply.jobs or request.wait_s <= 0 or len(self._parked) >= MAX_PARKED:
            return reply
        parked = _Parked(request, asyncio.get_running_loop().create_future())
        self._parked[request.ticket] = parked
        try:
            async with asyncio.timeout(request.wait_s):
                return reply.model_copy(update={"jobs": (await parked.answer,), "skipped": {}})
        except TimeoutError:
            # A job may have come in the very moment.
            if parked.answer.done() and not parked.answer.cancelled():
                return reply.model_copy(update={"jobs": (parked.answer.result(),), "skipped": {}})
            skipped = self._waiting.skipped(request.offer, self._clock())
            return reply.model_copy(update={"skipped": skipped})
        finally:
            self._parked.pop(request.ticket, None)

    def withdraw_pop(self, ticket: str) -> None:
        """Takes back what was handed out by a pop whose volunteer is gone; that is no failure."""
        if (parked := self._parked.pop(ticket, None)) is not None:
            parked.answer.cancel()
        for handout_id in self._pops.pop(ticket, ()):
            if (handout := self._handouts.get(handout_id)) is not None and not handout.told:
                self._close(handout, "aborted")
                self._offer(handout.job)

    def submit(self, job_id: str, account: str, text: str | None, adopter: ServedBy | None = None) -> SubmitReply:
        """Takes the text of a job, or None where its volunteer failed.

        `adopter` is who is taken for the volunteer where another process had handed out the job before it was lost.
        """
        handout = self._handouts.get(job_id)
        if handout is None:
            return self._submit_late(job_id, account, text, adopter)
        by, seconds = handout.by, self._clock() - handout.handed_at
        if by.account != account:
            return SubmitReply(outcome="foreign")
        suspicions = () if text is None else self._suspicions.judge(handout, text, seconds)
        if text is None or "contradictory" in suspicions:
            self._fault(handout)
            return SubmitReply(outcome="faulted", worker_id=by.worker_id, suspicions=suspicions)
        by = self._finish(handout, text)
        return self._accepted(by, handout.job, text, seconds, suspicions)

    def progress(self, job_id: str, account: str, text: str | None, delta: str | None) -> SubmitReply:
        """Takes what a volunteer has written so far, or what follows what it told before."""
        handout = self._handouts.get(job_id)
        if handout is None:
            return SubmitReply(outcome=self._late_outcome(job_id, account))
        if handout.by.account != account:
            return SubmitReply(outcome="foreign")
        new = delta or ""
        if text is not None:
            if not text.startswith(handout.told):
                self._fault(handout)
                return SubmitReply(outcome="faulted", worker_id=handout.by.worker_id, suspicions=("contradictory",))
            new = text[len(handout.told) :]
        if new:
            handout.told += new
            # Whoever writes on has not fallen silent.
            handout.until = self._clock() + handout.time_s
            handout.job.add(new, self._rewarded(handout, handout.told))
        return SubmitReply(outcome="accepted", worker_id=handout.by.worker_id)

    def _submit_late(self, job_id: str, account: str, text: str | None, adopter: ServedBy | None) -> SubmitReply:
        if (left := self._left.get(job_id)) is not None and left.by.account == account and text is not None:
            # The reply was complete with what had been streamed, and counts as the volunteer's.
            del self._left[job_id]
            self._ended.put(job_id, (account, "duplicate"))
            by = self._rewarded(left, left.told)
            return self._accepted(by, left.job, left.told, self._clock() - left.handed_at, ())
        outcome = self._late_outcome(job_id, account)
        digits = job_id.replace("-", "")
        job = self._by_key.get(digits[ID_MARK : ID_MARK + _KEY])
        if outcome != "unknown" or job is None or adopter is None or text is None or digits.startswith(self._mark):
            return SubmitReply(outcome=outcome)
        rest = _rest(job.said, text)
        if job.state != "open" or rest is None:
            return SubmitReply(outcome="aborted")
        if job.handout is not None:
            self._close(job.handout, "aborted")
        self._waiting.remove(job.waiting)
        model = next(iter(job.waiting.models), adopter.model)
        now = self._clock()
        taken_over = Handout(job_id, job, adopter.model_copy(update={"model": model}), now, now, job.time_s, "")
        by = self._rewarded(taken_over, text)
        self._ended.put(job_id, (account, "duplicate"))
        job.add(rest, by)
        job.end("done")
        return self._accepted(by, job, text, 0.0, ())

    def _late_outcome(self, job_id: str, account: str) -> Literal["duplicate", "aborted", "foreign", "unknown"]:
        known = self._ended.get(job_id)
        if known is None:
            return "unknown"
        return known[1] if known[0] == account else "foreign"

    def _accepted(
        self, by: ServedBy, job: PostedJob, text: str, seconds: float, suspicions: Sequence[Suspicion]
    ) -> SubmitReply:
        tokens = min(job.max_tokens, estimated_tokens(text))
        return SubmitReply(
            outcome="accepted",
            worker_id=by.worker_id,
            reward=by.reward,
            tokens=tokens,
            seconds=round(seconds, 3),
            suspicions=tuple(suspicions),
        )

    def _hand_out(self, job: PostedJob, request: PopRequest) -> HandedJob:
        offer, now = request.offer, self._clock()
        job_id = _uuid(self._mark + job.key + secrets.token_hex(4))
        model = job.waiting.model_for(offer) or offer.models[0]
        by = ServedBy(worker_id=offer.worker_id, worker_name=offer.worker_name, model=model, account=offer.account)
        handout = Handout(job_id, job, by, now, now + job.time_s, job.time_s, job.said, offer.validated)
        job.handout = handout
        self._handouts[job_id] = handout
        self._pops.put(request.ticket, [*self._pops.get(request.ticket, ()), job_id])
        return HandedJob(id=job_id, model=model, payload=job.payload(offer, job.said), ttl_s=job.time_s)

    def _offer(self, job: PostedJob) -> None:
        """Gives a job to the volunteer that has waited longest of those that it fits, else lets it wait."""
        now = self._clock()
        for ticket, parked in self._parked.items():
            if not parked.answer.done() and self._waiting.fits(job.waiting, parked.request.offer, now):
                parked.answer.set_result(self._hand_out(job, parked.request))
                del self._parked[ticket]
                return
        self._waiting.add(job.waiting)

    def _finish(self, handout: Handout, text: str) -> ServedBy:
        job = handout.job
        self._close(handout, "duplicate")
        by = self._rewarded(handout, text)
        # A volunteer may have streamed blanks or a stop sequence that it cut off in the end.
        job.add(text[len(handout.told) :], by)
        job.end("done")
        return by

    def _rewarded(self, handout: Handout, text: str) -> ServedBy:
        return handout.by.model_copy(update={"reward": self._reward(handout.job, handout, text)})

    def _fault(self, handout: Handout) -> None:
        job = handout.job
        self._close(handout, "aborted")
        job.faults += 1
        job.waiting.failed_at[handout.by.worker_id] = self._clock()
        if job.faults >= MAX_FAULTS:
            job.end("failed")
        else:
            self._offer(job)

    def _close(self, handout: Handout, outcome: Literal["duplicate", "aborted"]) -> None:
        del self._handouts[handout.id]
        handout.job.handout = None
        self._ended.put(handout.id, (handout.by.account, outcome))


def _rest(said: str, text: str) -> str | None:
    """What of a whole text follows what was said of it, where a client may have got it without blanks before it."""
    for whole in (text, text.lstrip()):
        if whole.startswith(said):
            return whole[len(said) :]
    return None


def _uuid(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))
