"""The models of a pool of volunteers: what is configured, and what volunteers offer now."""

import time
from collections.abc import Callable, Iterator, Mapping

from callboard_chat.domain.models import ServedModel
from callboard_contracts.chat import PromptFormat
from callboard_contracts.volunteers import MAX_MODEL_NAME, MAX_POOL_MODELS, ONLINE_S, VolunteerOffer

LEAST_CONTEXT = 80
DEFAULT_CONTEXT = 4096


class VolunteerModels(Mapping[str, ServedModel]):
    """The models of a pool of volunteers: those configured, and by their own names those that are offered now.

    Any other name counts as a model too: its job waits until a volunteer offers it.
    """

    def __init__(
        self,
        configured: Mapping[str, ServedModel],
        prompt_format: PromptFormat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configured = dict(configured)
        self._prompt_format: PromptFormat = prompt_format
        self._clock = clock
        self._seen: dict[str, dict[str, tuple[float, int, int]]] = {}
        """By model and volunteer: when it was offered, with which lengths."""

    def see(self, offer: VolunteerOffer) -> bool:
        """Takes in what a volunteer offers; returns whether a model is new."""
        now, new = self._clock(), False
        for name in offer.models:
            if len(name) > MAX_MODEL_NAME or (name not in self._seen and len(self._seen) >= MAX_POOL_MODELS):
                continue
            new |= name not in self._seen
            self._seen.setdefault(name, {})[offer.worker_id] = (now, offer.max_length, offer.max_context_length)
        return new

    def lengths(self, engine_model: str) -> tuple[int, int] | None:
        """The longest reply and context that volunteers offer for a model now, or None."""
        self._forget()
        offers = self._seen.get(engine_model)
        if not offers:
            return None
        return max(offer[1] for offer in offers.values()), max(offer[2] for offer in offers.values())

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

    def _forget(self) -> None:
        since = self._clock() - ONLINE_S
        for name, offers in list(self._seen.items()):
            for worker in [worker for worker, offer in offers.items() if offer[0] < since]:
                del offers[worker]
            if not offers:
                del self._seen[name]
