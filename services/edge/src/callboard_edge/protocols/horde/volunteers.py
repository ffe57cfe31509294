"""Workers of volunteers: they pop jobs, tell what they have written so far, and submit texts."""

import math
import re
from typing import Any, Literal

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.kudos_price import is_validated
from callboard_contracts.volunteers import (
    MAX_TEXT_BYTES,
    GenMetadata,
    PopReply,
    ProgressRequest,
    SubmitReply,
    SubmitRequest,
    TextNotes,
    handout_mark,
    volunteer_id,
)
from callboard_edge.domain.known_accounts import KnownAccounts
from callboard_edge.domain.volunteer_addresses import VolunteerAddresses
from callboard_edge.domain.volunteer_jobs import LONGEST_WAIT_S, VolunteerJobs
from callboard_edge.domain.volunteers import NameTaken, TooManyVolunteers
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.horde.errors import ANSWERS, Refusal
from callboard_edge.protocols.horde.generation import TAG
from callboard_edge.protocols.horde.offers import account_of_username, offer_of, sign_in_of
from callboard_edge.protocols.horde.prices import kudos_shown
from callboard_edge.protocols.horde.rate_limits import RateLimits
from callboard_edge.protocols.horde.requesters import account_of, check_key
from callboard_edge.protocols.horde.worker_bodies import (
    PopAnswer,
    PopBody,
    ProgressAnswer,
    ProgressBody,
    SubmitAnswer,
    SubmitBody,
)

WAIT = "X-Wait"
RETRY_AFTER_S = 2.0
FAULTED = "faulted"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def routes(context: EdgeContext, limits: RateLimits) -> list[Route]:
    """The routes of this module."""
    handlers = _Handlers(context, limits)
    return [
        Route(
            "POST",
            "/api/v2/generate/text/pop",
            handlers.pop,
            "horde_pop",
            "Fetch a job, as a worker",
            TAG,
            body=PopBody,
            answers={200: Answer("A job, or `id` null.", PopAnswer), **ANSWERS},
        ),
        Route(
            "POST",
            "/api/v2/generate/text/submit",
            handlers.submit,
            "horde_submit_text",
            "Submit the text of a job",
            TAG,
            body=SubmitBody,
            answers={200: Answer("The text was taken.", SubmitAnswer), **ANSWERS},
        ),
        Route(
            "POST",
            "/api/v2/generate/text/progress",
            handlers.progress,
            "horde_progress",
            "Tell what was written so far of a job",
            TAG,
            body=ProgressBody,
            answers={200: Answer("The piece was taken.", ProgressAnswer), **ANSWERS},
        ),
    ]


class _Handlers:
    """What volunteers ask and say."""

    def __init__(self, context: EdgeContext, limits: RateLimits) -> None:
        self._context = context
        self._limits = limits
        self._accounts = KnownAccounts(context.admission.deps.background)
        self._addresses = VolunteerAddresses(context.settings.horde.workers_per_address, context.admission.deps.now)

    def _jobs(self) -> VolunteerJobs:
        if self._context.volunteer_jobs is None:
            raise Refusal(403, "Forbidden", "This site takes no volunteers.")
        return self._context.volunteer_jobs

    async def _owner(self, call: Call) -> str:
        self._limits.worker(call)
        check_key(call)
        account = None
        if (digest := call.caller.key_digest) is not None:
            account = await self._accounts.account(digest, lambda: account_of(self._context, call))
        if account is None:
            raise Refusal(403, "AnonForbiddenWorker", "The anonymous key cannot run workers; use a key of your own.")
        return account

    async def pop(self, call: Call) -> web.StreamResponse:
        """Hands out a job."""
        account = await self._owner(call)
        held = self._jobs()
        body = await call.json(PopBody)
        said = sign_in_of(self._context, body, account)
        known = self._context.volunteers.get(volunteer_id(said.name))
        trusted = known is not None and known.trusted and known.account == account
        if not trusted and not self._addresses.admits(call.caller.address or "", volunteer_id(said.name)):
            message = "As many workers are there from your address as one may have here."
            raise Refusal(403, "TooManySameIPs", message)
        priority = tuple(account_of_username(name) for name in body.priority_usernames or ())
        try:
            record = await self._context.volunteers.sign_in(said)
        except NameTaken:
            raise Refusal(403, "WrongCredentials", "A worker of that name belongs to another user.", "name") from None
        except TooManyVolunteers:
            raise Refusal(403, "TooManyWorkers", "You have as many workers as one user may have here.") from None
        if record.paused:
            raise Refusal(403, "WorkerFlaggedMaintenance", "This worker was paused by the site.")
        offer = offer_of(self._context, body, record, said.models, priority)
        reply = await held.pop(offer, body.amount or 1, 0.0 if record.maintenance else _wait_s(call))
        if reply.dropped:
            self._context.volunteers.dropped(record.id, reply.dropped)
        if record.maintenance and not reply.jobs:
            message = "This worker is in maintenance, and no request of your own waits for it."
            raise Refusal(403, "WorkerMaintenance", record.maintenance_message or message)
        self._context.metrics.volunteer_pops.labels("job" if reply.jobs else "none").inc()
        return call.answer(_popped(reply))

    async def submit(self, call: Call) -> web.StreamResponse:
        """Takes the text of a job."""
        account = await self._owner(call)
        held = self._jobs()
        body = await call.json(SubmitBody)
        job_id = _job_id(body.id)
        state = _state(body)
        text = None if state == "faulted" else body.generation
        if text is None and state in ("censored", "csam"):
            text = ""
        too_long = text is not None and len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES
        own = self._context.volunteers.of_account(account)
        worker = next((one for one in own if job_id.endswith(handout_mark(one.id))), None)
        request = SubmitRequest(
            id=job_id,
            account=account,
            text=None if too_long else text,
            worker_id=worker.id if worker else "",
            worker_name=worker.name if worker else "",
            validated=worker is not None and is_validated(self._context.settings.kudos, worker.bridge_agent),
            notes=_notes(body, state),
        )
        reply = _answered(await held.submit(request))
        self._context.metrics.volunteer_submits.labels(reply.outcome).inc()
        self._note(reply)
        if reply.outcome == "faulted":
            if too_long:
                raise Refusal(400, "BadRequest", f"The text is longer than {MAX_TEXT_BYTES} bytes.", "generation")
            if body.generation is None:
                raise Refusal(400, "BadRequest", "Missing required field: 'generation'.", "generation")
        _refuse(reply)
        return call.answer({"reward": kudos_shown(reply.reward)})

    async def progress(self, call: Call) -> web.StreamResponse:
        """Takes a piece of a text."""
        account = await self._owner(call)
        held = self._jobs()
        body = await call.json(ProgressBody)
        if (body.text is None) == (body.delta is None):
            raise Refusal(400, "BadRequest", "Either 'text' or 'delta' is needed.", "text")
        if len((body.text or body.delta or "").encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
            raise Refusal(400, "BadRequest", f"The text is longer than {MAX_TEXT_BYTES} bytes.", "text")
        request = ProgressRequest(id=_job_id(body.id), account=account, text=body.text, delta=body.delta)
        reply = _answered(await held.progress(request))
        if reply.outcome == "faulted" and reply.worker_id is not None:
            self._note(reply)
            message = "The text is too long, or not what was told before; others will do the job."
            raise Refusal(400, "AbortedGen", message, "text")
        _refuse(reply)
        return call.answer({"accepted": True})

    def _note(self, reply: SubmitReply) -> None:
        """Puts what became of a text down to its volunteer."""
        if reply.worker_id is None:
            return
        if reply.outcome == "accepted":
            self._context.volunteers.fulfilled(reply.worker_id, reply.tokens, reply.seconds, reply.reward)
        else:
            self._context.volunteers.dropped(reply.worker_id)
        if reply.suspicions:
            self._context.volunteers.suspected(reply.worker_id, reply.suspicions)


def _wait_s(call: Call) -> float:
    """How long a worker waits for a job, as it says in seconds; what is no number is none."""
    try:
        wait_s = float(call.request.headers.get(WAIT, "0"))
    except ValueError:
        return 0.0
    return min(max(0.0, wait_s), LONGEST_WAIT_S) if math.isfinite(wait_s) else 0.0


def _popped(reply: PopReply) -> dict[str, Any]:
    first = next(iter(reply.jobs), None)
    if first is None:
        return {
            "id": None,
            "ids": [],
            "payload": {},
            "model": None,
            "ttl": None,
            "softprompt": None,
            "skipped": reply.skipped,
            "messages": [],
            "extra_source_images": None,
        }
    return {
        "id": first.id,
        "ids": [job.id for job in reply.jobs],
        "payload": first.payload,
        "model": first.model,
        "ttl": math.floor(first.ttl_s),
        "softprompt": first.softprompt,
        "skipped": {},
        "messages": [],
        "extra_source_images": None,
    }


def _state(body: SubmitBody) -> Literal["ok", "censored", "csam", "faulted"]:
    """What a volunteer says of a text; some programs write a fault into the text alone."""
    if body.state is not None:
        return body.state
    return "faulted" if body.generation == FAULTED else "ok"


def _notes(body: SubmitBody, state: Literal["ok", "censored", "csam", "faulted"]) -> TextNotes:
    remarks = (GenMetadata(type=one.type, value=one.value, ref=one.ref) for one in body.gen_metadata or ())
    return TextNotes(state="ok" if state == "faulted" else state, seed=body.seed or 0, gen_metadata=tuple(remarks))


def _job_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise Refusal(404, "InvalidJobID", "There is no such job.", "id")
    return text.lower()


def _answered(reply: SubmitReply | None) -> SubmitReply:
    if reply is None:
        message = "The process that holds the job does not answer; try again."
        raise CallboardError(ErrorCode.NO_WORKER, message, retry_after_s=RETRY_AFTER_S)
    return reply


def _refuse(reply: SubmitReply) -> None:
    match reply.outcome:
        case "duplicate":
            raise Refusal(400, "DuplicateGen", "The text of this job was submitted before.", "id")
        case "aborted":
            raise Refusal(400, "AbortedGen", "This job is no longer yours: it took too long, or was cancelled.", "id")
        case "foreign":
            raise Refusal(403, "WrongCredentials", "This job was given to a worker of another user.", "id")
        case "unknown":
            raise Refusal(404, "InvalidJobID", "There is no such job.", "id")
        case "accepted" | "faulted":
            return
