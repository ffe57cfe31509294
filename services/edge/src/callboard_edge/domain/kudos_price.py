"""What a request costs its requester in kudos, as it is asked for with the hold."""

from dataclasses import dataclass

from callboard_contracts.kudos import KudosTerms


@dataclass(frozen=True, slots=True)
class KudosPrice:
    """The most that one text costs, in thousandths, and how the worker reckons what it cost really.

    Where it is not `upfront`, whoever has fewer pays what there is.
    """

    amount: int
    terms: KudosTerms
    upfront: bool
