"""What work costs, in integers. A unit is a thousandth of a token."""

from collections.abc import Sequence
from typing import NamedTuple

from callboard_contracts.config import WeightSection
from callboard_contracts.quota import UNITS_PER_TOKEN, Hold, Rates, Work, WorkKind

MAX_WORK = 1_000_000_000
"""The most of one kind of work in a request; far above any real one, and far below what would overflow."""
MS_PER_S = 1000


class Cost(NamedTuple):
    """What work is charged: units, and milliseconds of sound that are heard."""

    units: int
    heard_ms: int = 0


def rates_of(weights: WeightSection, model: str, kind: WorkKind) -> Rates:
    """What work of a model costs now; sound that is heard has a price of its own."""
    factor = weights.model_factors.get(model, 1.0) * UNITS_PER_TOKEN
    audio_cost = weights.heard_cost_per_second if kind == "transcription" else weights.audio_cost_per_second
    return Rates(
        prompt_units=round(weights.prompt_token_cost * factor),
        completion_units=round(weights.completion_token_cost * factor),
        audio_units_per_s=round(audio_cost * factor),
    )


def is_plausible(work: Work) -> bool:
    """Whether no amount is beyond what any request can need."""
    return work.prompt_tokens <= MAX_WORK and work.completion_tokens <= MAX_WORK and work.audio_ms <= MAX_WORK


def cost(work: Work, rates: Rates, kind: WorkKind) -> Cost:
    """What work costs; a started unit counts whole."""
    units = (
        work.prompt_tokens * rates.prompt_units
        + work.completion_tokens * rates.completion_units
        + -(-work.audio_ms * rates.audio_units_per_s // MS_PER_S)
    )
    return Cost(units, work.audio_ms if kind == "transcription" else 0)


def shares(whole: Cost, holds: Sequence[Hold]) -> list[Cost]:
    """Divides a cost among the holds taken for it: each is filled in turn, and the last takes the rest."""
    if len(holds) == 1 and not whole.heard_ms:
        return [whole]
    # Sound is counted by those holds alone that have a counter of it.
    counting = [n for n, hold in enumerate(holds) if hold.heard_ms is not None] if whole.heard_ms else []
    last = counting[-1] if counting else -1
    units, heard_ms = whole if last >= 0 else (whole.units, 0)
    divided: list[Cost] = []
    for n, hold in enumerate(holds):
        share = Cost(
            units if n == len(holds) - 1 else min(units, hold.units or 0),
            heard_ms if n == last else min(heard_ms, hold.heard_ms or 0),
        )
        divided.append(share)
        units, heard_ms = units - share.units, heard_ms - share.heard_ms
    return divided
