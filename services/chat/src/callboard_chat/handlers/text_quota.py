"""The holds of one reply while it is written: what they allow, and when more is asked for."""

from callboard_chat.domain.hold_limits import UNBOUNDED, TextAllowance, within
from callboard_chat.domain.prior_attempt import History
from callboard_chat.domain.reply import Reply
from callboard_contracts.chat import ChatJob, TokenUsage
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import Hold, Work
from callboard_worker.hold_extensions import JobHolds


class TextQuota:
    """Has the output of one attempt held, slice by slice; a job that does not say what is held has all it may cost.

    `known` is what earlier attempts sent, which was held then, whatever has become of those holds.
    """

    def __init__(self, job: ChatJob, holds: JobHolds, known: History) -> None:
        self._most_tokens = job.request.max_output_tokens
        self._holds = holds
        self._known = known
        self._allowance = None
        if job.held is not None and (held := holds.all):
            self._allowance = TextAllowance(held, job.held.prompt_tokens)
        self._prompt_counted = False

    @property
    def covered(self) -> int:
        """How many tokens of output may be sent in all."""
        return UNBOUNDED if self._allowance is None else self._allowance.tokens

    @property
    def extensions(self) -> tuple[Hold, ...]:
        """All holds beside the job's own, in the order in which they were taken."""
        return self._holds.extensions

    def count_prompt(self, prompt_tokens: int) -> None:
        """Takes in how long the engine says that the prompt is; the first count is the reply's."""
        if self._allowance is not None and not self._prompt_counted:
            self._prompt_counted = True
            self._allowance.count_prompt(prompt_tokens)

    async def cover(self, reply: Reply, tokens: int) -> None:
        """Has so many tokens of output held, or else limits the reply to what is.

        Raises:
            CallboardError: nothing is held for a reply that has not begun, or quota does not answer.
        """
        refusal = await self._extend(tokens)
        if refusal is None:
            return
        limited = refusal.code is ErrorCode.QUOTA_EXCEEDED
        if not limited or (not reply.started and self.covered <= 0):
            raise CallboardError.of(refusal)
        reply.limit_to(self.covered)

    async def cover_used(self, usage: TokenUsage) -> None:
        """Has held what a reply turned out to have used, where an engine counted only at its end; quota may refuse."""
        if self._allowance is not None and usage.prompt_tokens:
            self._allowance.count_prompt(usage.prompt_tokens)
            if usage.completion_tokens > self._allowance.tokens:
                await self._extend(usage.completion_tokens)

    def charged(self, used: Work) -> Work:
        """What of the work used is charged: no more than was held when it was sent, or allowed without a hold."""
        if self._allowance is None:
            return within(self._holds.all, used)
        held = self._allowance.charged(used)
        if held is used:
            return used
        sent = self._known.sent
        return Work(
            prompt_tokens=max(held.prompt_tokens, min(used.prompt_tokens, sent.prompt_tokens)),
            completion_tokens=max(held.completion_tokens, min(used.completion_tokens, sent.completion_tokens)),
        )

    async def _extend(self, tokens: int) -> ErrorInfo | None:
        """Asks for holds until so many tokens are covered; returns why they are not, or None."""
        allowance = self._allowance
        assert allowance is not None
        most = max(tokens, self._most_tokens)
        while units := allowance.wanted_units(tokens, most):
            answer = await self._holds.ask(allowance.work(units))
            if isinstance(answer, Hold):
                allowance.add(answer)
            elif answer is None:
                allowance.add_unheld(units)
            elif answer.code is ErrorCode.QUOTA_EXCEEDED and units > allowance.lacking_units(tokens):
                allowance.refuse(units)
            else:
                return answer
        return None
