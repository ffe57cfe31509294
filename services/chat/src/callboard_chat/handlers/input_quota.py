"""The holds of an embedding request: what they allow, and when more is asked for."""

from callboard_chat.domain.hold_limits import units_of, within
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import Hold, Work
from callboard_worker.hold_extensions import JobHolds


class InputQuota:
    """Has the tokens of texts held once the engine has counted them, and before their vectors are sent."""

    def __init__(self, holds: JobHolds) -> None:
        self._holds = holds
        self._unheld_units = 0

    @property
    def extensions(self) -> tuple[Hold, ...]:
        """All holds beside the job's own, in the order in which they were taken."""
        return self._holds.extensions

    async def cover(self, tokens: int, expected_tokens: int) -> None:
        """Has so many tokens held, and if quota lets it what all texts are expected to have.

        Raises:
            CallboardError: quota refuses, or does not answer.
        """
        lacking = self._lacking_units(tokens)
        if lacking <= 0:
            return
        rate = self._holds.all[0].rates.prompt_units
        for units in dict.fromkeys((max(lacking, self._lacking_units(expected_tokens)), lacking)):
            answer = await self._holds.ask(Work(prompt_tokens=-(-units // rate)))
            if isinstance(answer, Hold):
                return
            if answer is None:
                self._unheld_units += units
                return
            if answer.code is not ErrorCode.QUOTA_EXCEEDED or units == lacking:
                raise CallboardError.of(answer)

    def charged(self, tokens: int) -> Work:
        """What of the tokens used is charged: no more than was held, or allowed without a hold."""
        return within(self._holds.all, Work(prompt_tokens=tokens), self._unheld_units)

    def _lacking_units(self, tokens: int) -> int:
        holds = self._holds.all
        units = units_of(holds)
        return 0 if units is None else tokens * holds[0].rates.prompt_units - units - self._unheld_units
