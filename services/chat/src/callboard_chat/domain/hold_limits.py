"""What the holds of a reply allow it to cost: the worker cuts it there, and never has more charged."""

import sys
from collections.abc import Sequence

from callboard_contracts.quota import Hold, Rates, Work

UNBOUNDED = sys.maxsize


def units_of(holds: Sequence[Hold]) -> int | None:
    """The units of all holds together; None when nothing bounds the work."""
    total = 0
    for hold in holds:
        units = hold.units
        if units is None:
            return None
        total += units
    return total if holds else None


def output_allowed(units: int | None, rates: Rates, prompt_tokens: int) -> int | None:
    """How many tokens of output so many units pay for beside a prompt; None when nothing bounds them.

    A negative number means that not even the prompt is held.
    """
    if units is None:
        return None
    left_units = units - prompt_tokens * rates.prompt_units
    if left_units < 0:
        return -1
    return left_units // rates.completion_units if rates.completion_units else None


def within(holds: Sequence[Hold], work: Work, unheld_units: int = 0) -> Work:
    """The work as it is charged, no more than the holds and what is allowed beside them."""
    units = units_of(holds)
    return work if units is None else paid_by(units + unheld_units, holds[0].rates, work)


def paid_by(units: int, rates: Rates, work: Work) -> Work:
    """What so many units pay of some work: what was written counts first, and of the prompt as much as is left for."""
    written, read = work.completion_tokens, work.prompt_tokens
    if rates.completion_units:
        written = min(written, units // rates.completion_units)
    if rates.prompt_units:
        read = min(read, (units - written * rates.completion_units) // rates.prompt_units)
    if (read, written) == (work.prompt_tokens, work.completion_tokens):
        return work
    return work.model_copy(update={"prompt_tokens": read, "completion_tokens": written})


class TextAllowance:
    """How much may be written of one reply, over all its attempts, and how much more is asked for.

    As much is asked for as was written, until quota refuses. From then on it is half as much each time, down to what
    is lacking, so that what is left of a limit is used to its last token.
    """

    def __init__(self, holds: Sequence[Hold], prompt_tokens: int) -> None:
        self._units = units_of(holds)
        """What is held, None where nothing bounds the work."""
        self._rates = holds[0].rates
        self._prompt_tokens = prompt_tokens
        self._most_ahead_units: int | None = None
        self.unheld_units = 0
        self.tokens = 0
        """How many tokens of output are held; below 0 when not even the prompt is."""
        self._recount()

    def count_prompt(self, prompt_tokens: int) -> None:
        """Takes in how long the prompt really is."""
        if prompt_tokens != self._prompt_tokens:
            self._prompt_tokens = prompt_tokens
            self._recount()

    def add(self, hold: Hold) -> None:
        """Takes in a hold that quota granted on top."""
        self._units = None if self._units is None or hold.units is None else self._units + hold.units
        self._recount()

    def add_unheld(self, units: int) -> None:
        """Allows work that nobody holds, where the site lets work go on while quota is away."""
        self.unheld_units += units
        self._recount()

    def refuse(self, units: int) -> None:
        """Notes that quota refused so many units."""
        self._most_ahead_units = units // 2

    def lacking_units(self, tokens: int) -> int:
        """What is missing for that much output; 0 when it is held."""
        if self._units is None:
            return 0
        wanted = self._prompt_tokens * self._rates.prompt_units + tokens * self._rates.completion_units
        return max(0, wanted - self._units - self.unheld_units)

    def wanted_units(self, tokens: int, most: int) -> int:
        """What to ask for so that `tokens` of at most `most` tokens may be written; 0 when they may."""
        lacking = self.lacking_units(tokens)
        if lacking == 0:
            return 0
        ahead = tokens * self._rates.completion_units
        if self._most_ahead_units is not None:
            ahead = min(ahead, self._most_ahead_units)
        return max(lacking, min(ahead, self.lacking_units(most)))

    def charged(self, work: Work) -> Work:
        """The work as it is charged, no more than is held or allowed without a hold."""
        return work if self._units is None else paid_by(self._units + self.unheld_units, self._rates, work)

    def work(self, units: int) -> Work:
        """The least work that costs so many units."""
        if self._rates.completion_units:
            return Work(completion_tokens=-(-units // self._rates.completion_units))
        return Work(prompt_tokens=-(-units // self._rates.prompt_units))

    def _recount(self) -> None:
        units = None if self._units is None else self._units + self.unheld_units
        allowed = output_allowed(units, self._rates, self._prompt_tokens)
        self.tokens = UNBOUNDED if allowed is None else allowed
