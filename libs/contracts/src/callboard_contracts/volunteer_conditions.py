"""What a job asks of its volunteer, as chat workers match it, and as edges tell whether anybody could write it."""

from dataclasses import dataclass
from typing import Literal

from callboard_contracts.volunteers import VolunteerOffer, VolunteerTerms

LEAST_CONTEXT = 80
"""The shortest context that counts, since no volunteer offers less."""

Refusal = Literal[
    "max_context_length", "max_length", "nsfw", "untrusted", "performance", "kudos", "matching_softprompt"
]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a job asks of its volunteer; jobs with the same lie in one pile."""

    max_length: int
    context_length: int
    trusted_only: bool = False
    validated_only: bool = False
    slow_workers: bool = True
    extra_slow_workers: bool = False
    nsfw: bool = False
    unpaid: bool = False
    softprompt: str = ""

    @classmethod
    def of(cls, terms: VolunteerTerms, max_length: int, context_length: int) -> "Conditions":
        """The conditions of a request's terms, for a reply and a context of these lengths."""
        return cls(
            max_length=max_length,
            context_length=max(LEAST_CONTEXT, context_length),
            trusted_only=terms.trusted_only,
            validated_only=terms.validated_only,
            slow_workers=terms.slow_workers,
            extra_slow_workers=terms.extra_slow_workers,
            nsfw=terms.nsfw,
            unpaid=terms.kudos <= 0,
            softprompt=terms.softprompt or "",
        )

    def refusal(self, offer: VolunteerOffer) -> Refusal | None:
        """The Horde's word for why a volunteer may not have such a job, or None."""
        if self.context_length > offer.max_context_length:
            return "max_context_length"
        if self.max_length > offer.max_length:
            return "max_length"
        if self.nsfw and not offer.nsfw:
            return "nsfw"
        if (self.trusted_only and not offer.trusted) or (self.validated_only and not offer.validated):
            return "untrusted"
        if (offer.slow and not self.slow_workers) or (offer.extra_slow and not self.extra_slow_workers):
            return "performance"
        if self.unpaid and offer.needs_kudos:
            return "kudos"
        if self.softprompt and self.softprompt not in offer.softprompts:
            return "matching_softprompt"
        return None
