"""The models that volunteers offer, beside those of the configuration."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from operator import is_

from callboard_contracts.pools import ChatSection
from callboard_contracts.workers import WorkerInfo
from callboard_edge.domain.catalogue import Catalogue, ChatModel
from callboard_edge.domain.workers import Workers

REMEMBERED_S = 30.0
"""How long a model is offered on after its chat worker went, so that a restart hides none."""
UNKNOWN_CONTEXT = 2048
UNKNOWN_LENGTH = 80


def volunteer_pools(section: ChatSection) -> tuple[str, ...]:
    """The pools whose replies volunteers write, alone or beside an engine of the site."""
    return tuple(name for name, pool in section.pools.items() if pool.takes_volunteers)


class VolunteerCatalogue(Catalogue[ChatModel]):
    """The models of the configuration, then those that chat workers announce for volunteers."""

    def __init__(self, configured: Catalogue[ChatModel], section: ChatSection, workers: Workers) -> None:
        super().__init__(configured.models, configured.default)
        self._pools = {name: pool for name, pool in section.pools.items() if pool.backend == "volunteers"}
        self._taken = set(section.models) | {alias for one in section.models.values() for alias in one.aliases}
        self._workers = workers
        self._known: dict[str, tuple[ChatModel, float]] = {}
        self._announced: tuple[WorkerInfo, ...] = ()
        self._announced_models: tuple[str, ...] = ()
        self._offers: dict[str, ChatModel] = {}
        self._until = -math.inf

    @property
    def models(self) -> tuple[ChatModel, ...]:
        """The models on offer."""
        return (*super().models, *self._offered().values())

    def find(self, name: str) -> ChatModel | None:
        """The model of a name or alias, or None."""
        return super().find(name) or (self._offered().get(name) if self._pools else None)

    def _offered(self) -> dict[str, ChatModel]:
        """What is on offer, which is put together anew when an announcement has come or gone, or a model is too old."""
        announced = tuple(info for pool in self._pools for info in self._workers.of("chat", pool))
        now = asyncio.get_running_loop().time() if self._pools else 0.0
        unchanged = len(announced) == len(self._announced) and all(map(is_, announced, self._announced))
        if unchanged and now < self._until:
            return self._offers
        # What was announced until now is remembered from now on.
        still = (name for name in self._announced_models if name in self._known)
        self._known |= {name: (self._known[name][0], now + REMEMBERED_S) for name in still}
        found = self._found(announced)
        self._known |= {name: (model, now + REMEMBERED_S) for name, model in found.items()}
        self._known = {name: known for name, known in self._known.items() if known[1] >= now}
        self._announced, self._announced_models = announced, tuple(found)
        self._offers = {name: known[0] for name, known in self._known.items()}
        self._until = min((known[1] for known in self._known.values()), default=math.inf)
        return self._offers

    def _found(self, announced: Sequence[WorkerInfo]) -> dict[str, ChatModel]:
        found: dict[str, ChatModel] = {}
        for info in announced:
            for one in info.models:
                if one.name in self._taken:
                    continue
                model = found.get(one.name) or self._model(one.name, info.pool)
                found[one.name] = replace(
                    model,
                    context_tokens=max(model.context_tokens, one.context_tokens or UNKNOWN_CONTEXT),
                    max_output_tokens=max(model.max_output_tokens, one.max_output_tokens or UNKNOWN_LENGTH),
                )
        return found

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
