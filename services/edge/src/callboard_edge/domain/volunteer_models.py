"""The models that volunteers offer, beside those of the configuration."""

import asyncio
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from callboard_contracts.pools import ChatSection
from callboard_contracts.workers import WorkerInfo
from callboard_edge.domain.catalogue import LATEST, Catalogue, ChatModel
from callboard_edge.domain.workers import Workers

REMEMBERED_S = 30.0
"""How long a model is offered on after its chat worker went, so that a restart hides none."""
RECKONED_S = 1.0
"""How long what was made of the same announcements is used again, since a request may name many models."""
UNKNOWN_CONTEXT = 2048
UNKNOWN_LENGTH = 80


def volunteer_pools(section: ChatSection) -> tuple[str, ...]:
    """The pools whose replies volunteers write, alone or beside an engine of the site."""
    return tuple(name for name, pool in section.pools.items() if pool.takes_volunteers)


class VolunteerCatalogue(Catalogue[ChatModel]):
    """The models of the configuration, then those that chat workers announce for volunteers.

    Names that could be taken for one of the configuration are not offered: prompts for that would go to strangers.
    """

    def __init__(self, configured: Catalogue[ChatModel], section: ChatSection, workers: Workers) -> None:
        super().__init__(configured.models, configured.default)
        self._pools = {name: pool for name, pool in section.pools.items() if pool.backend == "volunteers"}
        names = (*section.models, *(alias for one in section.models.values() for alias in one.aliases))
        self._taken = frozenset(map(_looks, names))
        self._workers = workers
        self._known: dict[str, tuple[ChatModel, float]] = {}
        self._announced: Sequence[tuple[str, WorkerInfo]] = ()
        self._reckoned_until = 0.0
        self._reckoned: dict[str, ChatModel] = {}

    @property
    def models(self) -> tuple[ChatModel, ...]:
        """The models on offer."""
        return (*super().models, *self._offered().values())

    def find(self, name: str) -> ChatModel | None:
        """The model of a name or alias, or None."""
        return self._by_name.get(name) or self._offered().get(name)

    def _offered(self) -> dict[str, ChatModel]:
        if not self._pools:
            return {}
        now = asyncio.get_running_loop().time()
        announced = [(pool, info) for pool in self._pools for info in self._workers.of("chat", pool)]
        same = len(announced) == len(self._announced) and all(
            new[1] is old[1] for new, old in zip(announced, self._announced, strict=True)
        )
        if not same or now >= self._reckoned_until:
            # What was announced until now is remembered from now on, however long ago it was last asked for.
            still = {one.name for _, info in self._announced for one in info.models}
            self._known |= {name: (self._known[name][0], now + REMEMBERED_S) for name in still & set(self._known)}
            self._announced, self._reckoned_until = announced, now + RECKONED_S
            self._reckoned = self._reckon(now)
        return self._reckoned

    def _reckon(self, now: float) -> dict[str, ChatModel]:
        found: dict[str, ChatModel] = {}
        for pool, info in self._announced:
            for one in info.models:
                if _looks(one.name) in self._taken:
                    continue
                model = found.get(one.name) or self._model(one.name, pool)
                found[one.name] = replace(
                    model,
                    context_tokens=max(model.context_tokens, one.context_tokens or UNKNOWN_CONTEXT),
                    max_output_tokens=max(model.max_output_tokens, one.max_output_tokens or UNKNOWN_LENGTH),
                )
        self._known |= {name: (model, now + REMEMBERED_S) for name, model in found.items()}
        self._known = {name: known for name, known in self._known.items() if known[1] >= now}
        return {name: known[0] for name, known in self._known.items()}

    def _model(self, name: str, pool: str) -> ChatModel:
        section = self._pools[pool]
        return ChatModel(
            name=name,
            aliases=(),
            pool=pool,
            may_sleep=section.may_sleep,
            longest_wake_s=section.longest_wake_s,
            context_tokens=0,
            max_output_tokens=0,
            tools="refuse",
            json_schema=False,
            images=False,
            prompt_format=section.prompt_format,
        )


def _looks(name: str) -> str:
    """A name without what a client may leave out or write in another way."""
    return unicodedata.normalize("NFKC", name).casefold().removesuffix(LATEST)
