"""How much sound the holds of a request pay for."""

from collections.abc import Iterable, Sequence

from callboard_contracts.quota import Hold

MS_PER_S = 1000


def allowed_ms(holds: Sequence[Hold]) -> int | None:
    """How much sound the holds pay for together; None when nothing bounds it.

    Nothing bounds a job that was admitted without a hold, and sound that neither costs anything nor is counted.
    """
    bounds: list[int] = []
    rate = holds[0].rates.audio_units_per_s if holds else 0
    if rate and (units := _sum(hold.units for hold in holds)) is not None:
        bounds.append(units * MS_PER_S // rate)
    if holds and (heard_ms := _sum(hold.heard_ms for hold in holds)) is not None:
        bounds.append(heard_ms)
    return min(bounds, default=None)


def _sum(held: Iterable[int | None]) -> int | None:
    """What is held together; None where one hold bounds nothing."""
    amounts = list(held)
    return None if None in amounts else sum(amount or 0 for amount in amounts)
