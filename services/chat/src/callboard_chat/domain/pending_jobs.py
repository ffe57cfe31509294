"""Jobs that wait for volunteers: handed out by pops, answered by submits, given back by failures."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from callboard_chat.domain.ended_handouts import Ended, EndedHandouts
from callboard_chat.domain.handout_ids import HandoutIds, job_key, key_of
from callboard_chat.domain.parked_volunteers import ParkedVolunteers
from callboard_chat.domain.posted_job import Handout, PostedJob, Reward, estimated_tokens
from callboard_chat.domain.recent_entries import RecentEntries
from callboard_chat.domain.suspicions import Suspicions
from callboard_chat.domain.volunteer_matching import SearchBudget, WaitingJob, WaitingJobs
from callboard_contracts.volunteers import (
    MAX_TEXT_BYTES,
    HandedJob,
    PopReply,
    PopRequest,
    ServedBy,
    SubmitReply,
    Suspicion,
    TextNotes,
    VolunteerOffer,
)

MAX_FAULTS = 3
"""So many volunteers may fail on a job; then its request fails."""
S_PER_TOKEN = 0.5
"""How long a volunteer may take for each token that it may write, beside the time that every job has."""
REMEMBERED_WORKERS = 2048
REMEMBERED_POPS = 2048
MAX_IN_HAND = 64
"""So many jobs one volunteer has at once, in all of its loops, so that none carries the whole queue away."""
LEAST_TIME_S = 1.0
"""A job whose deadline leaves less than this is given to nobody: no text of it would come in time."""


_NO_NOTES = TextNotes()


class TooManyPending(Exception):  # noqa: N818 - a state: another try may help
    """No more jobs may wait."""


class PendingJobs:
    """The jobs of one process; `mark` begins their ids, so that edges find it by them."""

    def __init__(
        self,
        mark: str,
        most_jobs: int,
        clock: Callable[[], float] | None = None,
        reward: Reward = lambda _job, _handout, _text: 0,
    ) -> None:
        self._ids = HandoutIds(mark)
        self._most_jobs = most_jobs
        self._reward = reward
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._waiting = WaitingJobs()
        self._jobs: dict[WaitingJob, PostedJob] = {}
        self._by_key: dict[str, PostedJob] = {}
        self._handouts: dict[str, Handout] = {}
        self._ended = EndedHandouts()
        self._pops: RecentEntries[str, list[str]] = RecentEntries(REMEMBERED_POPS)
        self._suspicions = Suspicions()
        self._dropped: RecentEntries[str, int] = RecentEntries(REMEMBERED_WORKERS)
        self._parked = ParkedVolunteers()
        self._in_hand: Counter[str] = Counter()

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

    def worked_s(self, job: PostedJob) -> float:
        """How long volunteers have written a job so far, the time that it waited for them left out."""
        return job.worked_until(self._clock())

    def post(
        self,
        request_id: str,
        waiting: WaitingJob,
        payload: Callable[[VolunteerOffer, str], dict[str, Any]],
        max_tokens: int,
        time_s: float,
        said: str = "",
        left_s: float = math.inf,
    ) -> PostedJob:
        """Lets a job wait for volunteers, for which it has `left_s` until its deadline; raises TooManyPending."""
        if len(self._jobs) >= self._most_jobs:
            raise TooManyPending
        key = job_key(request_id)
        deadline = self._clock() + left_s
        job = PostedJob(waiting, key, payload, max_tokens, time_s + S_PER_TOKEN * max_tokens, said, deadline)
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
                self._ended.keep_told(handout)

    def expire(self, job: PostedJob) -> float:
        """Takes a job back whose volunteer ran out of time; returns how long the volunteer has left, or infinity.

        That the job's own deadline came before is nobody's failure: the job ends then, and is withdrawn.
        """
        handout = job.handout
        if handout is None or handout.until >= job.deadline:
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
        worker = request.offer.worker_id
        while len(jobs) < request.amount and self._in_hand[worker] < MAX_IN_HAND:
            waiting = self._waiting.take(request.offer, now)
            if waiting is None:
                break
            job = self._jobs[waiting]
            if job.time_left_s(now) < LEAST_TIME_S:
                # It waits for its end, and no longer for anybody.
                continue
            if jobs and (waiting.alone or job.payload(request.offer, job.said) != jobs[0].payload):
                # A batch has one payload: the texts of one request.
                self._waiting.add(waiting)
                break
            jobs.append(self._hand_out(job, request))
            if waiting.alone:
                break
        skipped = {} if jobs else self._waiting.skipped(request.offer, now)
        return PopReply(jobs=tuple(jobs), skipped=skipped, dropped=self._dropped.pop(worker, 0))

    async def pop_within(self, request: PopRequest) -> PopReply:
        """Hands out jobs, or waits for one as long as the volunteer does."""
        reply = self.pop(request)
        if reply.jobs or request.wait_s <= 0 or self._parked.is_full:
            return reply
        job = await self._parked.job_for(request)
        if job is not None:
            return reply.model_copy(update={"jobs": (job,), "skipped": {}})
        return reply.model_copy(update={"skipped": self._waiting.skipped(request.offer, self._clock())})

    def withdraw_pop(self, ticket: str) -> None:
        """Takes back what was handed out by a pop whose volunteer is gone; that is no failure."""
        self._parked.withdraw(ticket)
        for handout_id in self._pops.pop(ticket, ()):
            if (handout := self._handouts.get(handout_id)) is not None and not handout.told:
                self._close(handout, "aborted")
                self._offer(handout.job)

    def submit(
        self,
        job_id: str,
        account: str,
        text: str | None,
        adopter: ServedBy | None = None,
        *,
        adopter_validated: bool = False,
        notes: TextNotes = _NO_NOTES,
    ) -> SubmitReply:
        """Takes the text of a job, or None where its volunteer failed.

        `adopter` is who is taken for the volunteer where another process had handed out the job before it was lost.
        A text that the volunteer withholds, as its `notes` say, ends the job as one that it gives does.
        """
        handout = self._handouts.get(job_id)
        if handout is None:
            return self._submit_late(job_id, account, text, adopter, notes, adopter_validated=adopter_validated)
        by, seconds = handout.by, self._clock() - handout.handed_at
        if by.account != account:
            return SubmitReply(outcome="foreign")
        suspicions: tuple[Suspicion, ...] = ()
        if text is not None and notes.state != "ok":
            # What was told before cannot be taken back.
            text = text if notes.state == "censored" and text.startswith(handout.told) else handout.told
        elif text is not None:
            suspicions = self._suspicions.judge(handout, text, seconds)
        if text is None or "contradictory" in suspicions:
            # Who had less time than every job has, since this one ends, did not drop it.
            was_short = handout.until >= handout.job.deadline and not suspicions
            self._fault(handout)
            worker_id = None if was_short else by.worker_id
            return SubmitReply(outcome="faulted", worker_id=worker_id, suspicions=suspicions)
        by = self._finish(handout, text, notes)
        return self._accepted(by, handout.job, text, seconds, suspicions)

    def progress(self, job_id: str, account: str, text: str | None, delta: str | None) -> SubmitReply:
        """Takes what a volunteer has written so far, or what follows what it told before."""
        handout = self._handouts.get(job_id)
        if handout is None:
            return SubmitReply(outcome=self._ended.outcome(job_id, account))
        if handout.by.account != account:
            return SubmitReply(outcome="foreign")
        new = delta or ""
        if text is not None:
            if not text.startswith(handout.told):
                self._fault(handout)
                return SubmitReply(outcome="faulted", worker_id=handout.by.worker_id, suspicions=("contradictory",))
            new = text[len(handout.told) :]
        if len(handout.told) + len(new) > MAX_TEXT_BYTES:
            self._fault(handout)
            return SubmitReply(outcome="faulted", worker_id=handout.by.worker_id)
        if new:
            handout.told += new
            # Whoever writes on has not fallen silent.
            handout.until = self._clock() + handout.time_s
            handout.job.add(new, self._rewarded(handout, handout.told))
        return SubmitReply(outcome="accepted", worker_id=handout.by.worker_id)

    def _submit_late(
        self,
        job_id: str,
        account: str,
        text: str | None,
        adopter: ServedBy | None,
        notes: TextNotes,
        *,
        adopter_validated: bool,
    ) -> SubmitReply:
        if text is not None and (left := self._ended.take_told(job_id, account)) is not None:
            by = self._rewarded(left, left.told)
            return self._accepted(by, left.job, left.told, self._clock() - left.handed_at, ())
        outcome = self._ended.outcome(job_id, account)
        job = self._by_key.get(key_of(job_id))
        if outcome != "unknown" or job is None or adopter is None or text is None or self._ids.is_own(job_id):
            return SubmitReply(outcome=outcome)
        if notes.state == "csam" or (notes.state == "censored" and job.rest_of(text) is None):
            text = job.said
        rest = job.rest_of(text)
        if job.state != "open" or rest is None:
            return SubmitReply(outcome="aborted")
        if job.handout is not None:
            self._close(job.handout, "aborted")
        self._waiting.remove(job.waiting)
        model = next(iter(job.waiting.models), adopter.model)
        now = self._clock()
        by = adopter.model_copy(update={"model": model})
        taken_over = Handout(job_id, job, by, now, now, job.time_s, "", adopter_validated)
        by = self._rewarded(taken_over, text).model_copy(update={"notes": notes})
        self._ended.put(job_id, account, "duplicate")
        job.add(rest, by)
        job.end("done")
        return self._accepted(by, job, text, 0.0, ())

    def _accepted(
        self, by: ServedBy, job: PostedJob, text: str, seconds: float, suspicions: Sequence[Suspicion]
    ) -> SubmitReply:
        # A text that is withheld says nothing of how fast its volunteer writes.
        given = by.notes.state == "ok"
        return SubmitReply(
            outcome="accepted",
            worker_id=by.worker_id,
            reward=by.reward,
            tokens=min(job.max_tokens, estimated_tokens(text)) if given else 0,
            seconds=round(seconds, 3) if given else 0.0,
            suspicions=tuple(suspicions),
        )

    def _hand_out(self, job: PostedJob, request: PopRequest) -> HandedJob:
        offer, now = request.offer, self._clock()
        job_id = self._ids.new(job.key, offer.worker_id, lambda one: one in self._handouts or one in self._ended)
        model = job.waiting.model_for(offer) or offer.models[0]
        by = ServedBy(worker_id=offer.worker_id, worker_name=offer.worker_name, model=model, account=offer.account)
        handout = Handout(job_id, job, by, now, now + job.time_s, job.time_s, job.said, offer.validated)
        job.handout = handout
        self._handouts[job_id] = handout
        self._in_hand[offer.worker_id] += 1
        self._pops.put(request.ticket, [*self._pops.get(request.ticket, ()), job_id])
        return HandedJob(
            id=job_id,
            model=model,
            payload=job.payload(offer, job.said),
            ttl_s=job.time_left_s(now),
            softprompt=job.waiting.conditions.softprompt or None,
        )

    def _offer(self, job: PostedJob) -> None:
        """Gives a job to the volunteer that has waited longest of those that it fits, else lets it wait."""
        now, budget = self._clock(), SearchBudget()
        if job.time_left_s(now) < LEAST_TIME_S:
            return
        for request in self._parked.waiting():
            offer = request.offer
            if self._in_hand[offer.worker_id] >= MAX_IN_HAND:
                continue
            if self._waiting.fits(job.waiting, offer, now, budget):
                self._parked.give(request, self._hand_out(job, request))
                return
        self._waiting.add(job.waiting)

    def _finish(self, handout: Handout, text: str, notes: TextNotes) -> ServedBy:
        job = handout.job
        if not handout.told:
            job.worked_s += self._clock() - handout.handed_at
        self._close(handout, "duplicate")
        by = self._rewarded(handout, text).model_copy(update={"notes": notes})
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

    def _close(self, handout: Handout, outcome: Ended) -> None:
        del self._handouts[handout.id]
        handout.job.worked_s = handout.job.worked_until(self._clock())
        self._in_hand[handout.by.worker_id] -= 1
        if not self._in_hand[handout.by.worker_id]:
            del self._in_hand[handout.by.worker_id]
        handout.job.handout = None
        handout.job.touch()
        self._ended.put(handout.id, handout.by.account, outcome)
