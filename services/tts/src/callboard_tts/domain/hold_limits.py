"""How much sound the holds of an utterance allow, and how much more is asked for and when."""

from collections.abc import Sequence

from callboard_contracts.quota import Hold
from callboard_contracts.speech_duration import max_audio_ms, usual_audio_ms

MS_PER_S = 1000

usual_ms = usual_audio_ms
most_ms = max_audio_ms


def allowed_ms(holds: Sequence[Hold]) -> int | None:
    """How much sound the holds of one utterance pay for together; None when nothing bounds it.

    Nothing bounds a job that was admitted without a hold, and sound that costs nothing.
    """
    if not holds:
        return None
    rate = holds[0].rates.audio_units_per_s
    held = [hold.units for hold in holds]
    if rate == 0 or None in held:
        return None
    return sum(units or 0 for units in held) * MS_PER_S // rate


class Allowance:
    """What may be sent of one utterance, over all its attempts; all lengths are in milliseconds from its beginning.

    A whole slice is asked for until quota refuses one. From then on exactly what the piece at hand lacks is asked
    for, so that what is left of a limit is used to the last piece that fits.
    """

    def __init__(self, holds: Sequence[Hold], slice_ms: int) -> None:
        self._holds = list(holds)
        self._slice_ms = slice_ms
        self._unheld_ms = 0
        self._scarce = False

    def add(self, hold: Hold) -> None:
        """Takes in a hold that quota granted on top."""
        self._holds.append(hold)

    def add_unheld(self, audio_ms: int) -> None:
        """Allows sound that nobody holds, where the site lets work go on while quota is away."""
        self._unheld_ms += audio_ms

    def refuse(self) -> None:
        """Notes that quota refused what was asked for."""
        self._scarce = True

    def lacks_ms(self, total_ms: int) -> int:
        """How much is missing for that much sound; 0 when it may be sent."""
        allowed = allowed_ms(self._holds)
        return 0 if allowed is None else max(0, total_ms - allowed - self._unheld_ms)

    def ahead_ms(self, total_ms: int, next_ms: int, rest_ms: int) -> int:
        """What to ask for ahead of need once `total_ms` are spoken for; 0 for nothing.

        `next_ms` is how long the next piece usually sounds, `rest_ms` the most that the rest of the text can.
        """
        rest_lacks_ms = self.lacks_ms(total_ms + rest_ms)
        next_lacks_ms = self.lacks_ms(total_ms + next_ms)
        if self._scarce or next_lacks_ms == 0:
            return 0
        return min(max(self._slice_ms, next_lacks_ms), rest_lacks_ms)

    def needed_ms(self, total_ms: int, rest_ms: int) -> int:
        """What to ask for when `total_ms` must be covered now and at most `rest_ms` follow; 0 when it is covered."""
        lacks_ms = self.lacks_ms(total_ms)
        if self._scarce or lacks_ms == 0:
            return lacks_ms
        return max(lacks_ms, min(self._slice_ms, lacks_ms + rest_ms))
