"""How much sound the holds of a request pay for."""

from collections.abc import Sequence

from callboard_contracts.quota import Hold

MS_PER_S = 1000


def allowed_ms(holds: Sequence[Hold]) -> int | None:
    """How much sound the holds pay for together; None when nothing bounds it.

    Nothing bounds a job that was admitted without a hold, and sound that costs nothing.
    """
    if not holds:
        return None
    rate = holds[0].rates.audio_units_per_s
    held = [hold.units for hold in holds]
    if rate == 0 or None in held:
        return None
    return sum(units or 0 for units in held) * MS_PER_S // rate
