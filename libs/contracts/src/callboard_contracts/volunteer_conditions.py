"""What a job asks of its volunteer, as chat workers match it, and as edges tell whether anybody could write it."""

from dataclasses import dataclass
from typing import Literal, Protocol

from callboard_contracts.volunteers import VolunteerRecord, VolunteerTerms

LEAST_CONTEXT = 80
"""The shortest context that counts, since no volunteer offers less."""

Refusal = Literal[
    "max_context_length", "max_length", "nsfw", "untrusted", "performance", "kudos", "matching_softprompt"
]


class Able(Protocol):
    """What a volunteer can do and is, as its offer has it."""

    @property
    def max_length(self) -> int:
        """The longest reply."""
        ...

    @property
    def max_context_length(self) -> int:
        """The longest context."""
        ...

    @property
    def nsfw(self) -> bool:
        """Whether it writes what is not safe for work."""
        ...

    @property
    def trusted(self) -> bool:
        """Whether an operator trusts it."""
        ...

    @property
    def validated(self) -> bool:
        """Whether its program is in the site's list."""
        ...

    @property
    def slow(self) -> bool:
        """Whether it has written slowly."""
        ...

    @property
    def extra_slow(self) -> bool:
        """Whether it says that it is very slow."""
        ...

    @property
    def needs_kudos(self) -> bool:
        """Whether it writes only for those who have kudos."""
        ...

    @property
    def softprompts(self) -> tuple[str, ...]:
        """The soft prompts that it has."""
        ...


class KnownVolunteer:
    """What a volunteer can do as its record tells; `validated` says whether its program is in the site's list."""

    __slots__ = (
        "extra_slow",
        "max_context_length",
        "max_length",
        "needs_kudos",
        "nsfw",
        "slow",
        "softprompts",
        "trusted",
        "validated",
    )

    def __init__(self, record: VolunteerRecord, *, validated: bool) -> None:
        self.max_length = record.max_length
        self.max_context_length = record.max_context_length
        self.nsfw = record.nsfw
        self.trusted = record.trusted
        self.validated = validated
        self.slow = record.is_slow
        self.extra_slow = record.extra_slow
        self.needs_kudos = record.needs_kudos
        self.softprompts = record.softprompts


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

    def refusal(self, offer: Able) -> Refusal | None:
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
