"""The models of a pool of volunteers: what is configured, and what volunteers offer now."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from callboard_chat.domain.models import ServedModel
from callboard_contracts.chat import PromptFormat
from callboard_contracts.volunteer_conditions import LEAST_CONTEXT
from callboard_contracts.volunteers import MAX_MODEL_NAME, MAX_POOL_MODELS, ONLINE_S, VolunteerOffer

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class _Offered:
    """That a volunteer of an account offers a model, and with which lengths; `at` is the clock's time."""

    at: float
    account: str
    max_length: int
    max_context_length: int


class VolunteerModels(Mapping[str, ServedModel]):
    """The models of a pool of volunteers: those configured, and by their own names those that are offered now.

    Any other name counts as a model too: its job waits until a volunteer offers it. `names` are other names by which
    volunteers offer configured models. Those always have room; of the `MAX_POOL_MODELS` names beside them each account
    has as many as it likes while there is room, and an even share where there is none: a name of an account with fewer
    takes the place of the newest name of the account with most.
    """

    def __init__(
        self,
        configured: Mapping[str, ServedModel],
        prompt_format: PromptFormat,
        clock: Callable[[], float] = time.monotonic,
        names: Iterable[str] = (),
    ) -> None:
        self._configured = dict(configured)
        self._reserved = frozenset((*names, *(model.engine_model for model in configured.values())))
        self._prompt_format: PromptFormat = prompt_format
        self._clock = clock
        self._seen: dict[str, dict[str, _Offered]] = {}
        """By model and volunteer."""

    def see(self, offer: VolunteerOffer) -> bool:
        """Takes in what a volunteer offers; returns whether a model is new."""
        now, new = self._clock(), False
        shares: _Shares | None = None
        for name in offer.models:
            if len(name) > MAX_MODEL_NAME:
                continue
            if name not in self._seen and name not in self._reserved and len(self._seen) >= MAX_POOL_MODELS:
                if shares is None:
                    self._forget()
                    shares = _Shares(self._seen, self._reserved)
                if shares.are_full and not self._make_room(shares, offer.account):
                    continue
                shares.add(name, offer.account)
            new |= name not in self._seen
            offered = _Offered(now, offer.account, offer.max_length, offer.max_context_length)
            self._seen.setdefault(name, {})[offer.worker_id] = offered
        return new

    def lengths(self, engine_model: str) -> tuple[int, int] | None:
        """The longest reply and context that volunteers offer for a model now, or None."""
        self._forget()
        offers = self._seen.get(engine_model)
        if not offers:
            return None
        return (
            max(offer.max_length for offer in offers.values()),
            max(offer.max_context_length for offer in offers.values()),
        )

    def __getitem__(self, name: str) -> ServedModel:
        if (model := self._configured.get(name)) is not None:
            return model
        lengths = self.lengths(name) or (0, DEFAULT_CONTEXT)
        return ServedModel(
            name, name, max(LEAST_CONTEXT, lengths[1]), "refuse", json_schema=False, prompt_format=self._prompt_format
        )

    def __iter__(self) -> Iterator[str]:
        self._forget()
        taken = {model.engine_model for model in self._configured.values()} | set(self._configured)
        yield from self._configured
        yield from (name for name in self._seen if name not in taken)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _make_room(self, shares: "_Shares", account: str) -> bool:
        """Lets a name of the account that has most go, where the other has fewer; returns whether it did."""
        name = shares.to_go(account)
        if name is None:
            return False
        shares.remove(name)
        del self._seen[name]
        return True

    def _forget(self) -> None:
        since = self._clock() - ONLINE_S
        for name, offers in list(self._seen.items()):
            for worker in [worker for worker, offered in offers.items() if offered.at < since]:
                del offers[worker]
            if not offers:
                del self._seen[name]


class _Shares:
    """Which account has which names; one that several accounts offer is nobody's alone, and stays."""

    def __init__(self, seen: Mapping[str, Mapping[str, _Offered]], reserved: Set[str]) -> None:
        self._owners = {
            name: frozenset(offered.account for offered in offers.values())
            for name, offers in seen.items()
            if name not in reserved
        }
        self._alone = Counter(next(iter(owners)) for owners in self._owners.values() if len(owners) == 1)

    @property
    def are_full(self) -> bool:
        """Whether all places are taken."""
        return len(self._owners) >= MAX_POOL_MODELS

    def to_go(self, account: str) -> str | None:
        """The name that makes room for one of an account, or None where nobody has more than it would have then."""
        most = max(self._alone, key=lambda one: self._alone[one], default=account)
        if self._alone[most] <= self._alone[account] + 1:
            return None
        return next(name for name in reversed(self._owners) if self._owners[name] == frozenset({most}))

    def add(self, name: str, account: str) -> None:
        """Counts a name of an account."""
        self._owners[name] = frozenset({account})
        self._alone[account] += 1

    def remove(self, name: str) -> None:
        """Counts a name no more."""
        self._alone.subtract(self._owners.pop(name))
