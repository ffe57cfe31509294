"""What a chat worker needs out of the configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from callboard_chat.domain.models import ServedModel
from callboard_chat.domain.shared_jobs import SharingRule
from callboard_chat.domain.volunteer_models import VolunteerModels
from callboard_contracts.chat import PromptFormat
from callboard_contracts.config import Config
from callboard_contracts.kudos_price import KudosSection
from callboard_contracts.pools import ChatPoolSection
from callboard_kit.memory_limit import MIB, default_limit_bytes
from callboard_kit.model_files import model_path
from callboard_worker.pool import WorkerPool, find_pool, secret

DEFAULT_MODEL_FILE = "smollm2-135m-instruct-q4_1.gguf"
PROMPT_CACHE_SHARE = 8
"""One part in so many of a worker's memory limit, unless the configuration says how much."""
VOLUNTEER_SLOTS = 512
"""So many jobs wait for volunteers in one worker, unless the configuration says how many."""
MAX_DEFAULT_PROMPT_CACHE_MIB = 8192
"""llama.cpp's own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings(WorkerPool):
    """One pool as one worker sees it; times are in seconds."""

    model_path: Path
    threads: int | None
    prompt_cache_mib: int
    can_continue: bool
    connect_timeout_s: float
    decision_timeout_s: float
    admits_unheld: bool
    volunteer_time_s: float
    own_slots: int
    """How many replies the engine of the site writes at once."""
    sharing: SharingRule | None
    """How jobs are shared with volunteers; None where they are not."""
    volunteer_models: VolunteerModels | None
    """The models of a pool for which volunteers write, as they get them."""
    volunteer_names: Mapping[str, tuple[str, ...]]
    """The names by which volunteers offer the models of a pool that shares its jobs."""
    kudos: KudosSection
    models: Mapping[str, ServedModel]
    """The models of this pool by the names that clients use, aliases among them."""

    @property
    def context_tokens(self) -> int:
        """The context of the pool's largest model."""
        return max((model.context_tokens for model in self.models.values()), default=4096)

    @property
    def makes_embeddings(self) -> bool:
        """Whether any model of the pool makes embeddings."""
        return any(model.embeddings for model in self.models.values())

    @property
    def parse_special(self) -> frozenset[str]:
        """The engine's models in whose messages control tokens act as such: those of which no name says otherwise."""
        models = self.models.values()
        kept = {model.engine_model for model in models if not model.parse_special}
        return frozenset(model.engine_model for model in models) - kept


def pool_settings(config: Config, pool: str, environ: Mapping[str, str] = os.environ) -> PoolSettings:
    """Picks one pool out of the configuration.

    Raises:
        StartError: there is no such pool, or it lacks what its backend needs.
    """
    section = find_pool("chat", config.chat.pools, pool, with_url={"openai", "ollama"})
    volunteers = section.backend == "volunteers"
    slots = section.slots if not volunteers or "slots" in section.model_fields_set else VOLUNTEER_SLOTS
    served_models: dict[str, ServedModel] = {}
    for name, model in config.chat.models.items():
        if model.pool != pool:
            continue
        served = ServedModel(
            name,
            model.engine_model or name,
            model.context_tokens,
            model.tools,
            model.json_schema,
            model.images,
            model.parse_special,
            model.prompt_format,
            model.embeddings,
            model.chat,
        )
        served_models |= dict.fromkeys((name, *model.aliases), served)
    models: Mapping[str, ServedModel] = served_models
    own_slots, of_volunteers = slots, None
    names = {
        name: model.volunteer_models
        for name, model in config.chat.models.items()
        if model.pool == pool and model.volunteer_models
    }
    if section.is_shared:
        slots += section.volunteer_slots
        of_volunteers = VolunteerModels(
            _as_written_by_volunteers(models, section.prompt_format),
            section.prompt_format,
            names=chain(*names.values()),
        )
    elif volunteers:
        models = of_volunteers = VolunteerModels(models, section.prompt_format, names=chain(*names.values()))
    return PoolSettings(
        service="chat",
        name=pool,
        backend=section.backend,
        slots=slots,
        url=section.url,
        api_key=secret(section.api_key),
        model_path=model_path(config.site, section.model_file or DEFAULT_MODEL_FILE, environ),
        threads=section.threads,
        prompt_cache_mib=_prompt_cache_mib(section),
        can_continue=section.resume == "prefill",
        metrics_port=section.metrics_port,
        memory_limit_mib=section.memory_limit_mib,
        connect_timeout_s=section.connect_timeout_s,
        stall_timeout_s=section.stall_timeout_s,
        watchdog_timeout_s=section.watchdog_timeout_s,
        drain_timeout_s=config.chat.drain_timeout_s,
        decision_timeout_s=config.quota.decision_timeout_s,
        admits_unheld=config.quota.on_unreachable == "admit_and_settle",
        models=models,
        volunteer_time_s=section.volunteer_time_s,
        own_slots=own_slots,
        sharing=SharingRule(section.volunteers == "second", section.second_after_jobs, section.second_after_s)
        if section.is_shared
        else None,
        volunteer_models=of_volunteers,
        volunteer_names=names,
        kudos=config.kudos,
    )


def _as_written_by_volunteers(models: Mapping[str, ServedModel], form: PromptFormat) -> dict[str, ServedModel]:
    """The models of a pool as volunteers get them: plain text under the public name."""
    return {
        name: replace(
            model,
            engine_model=model.name,
            tools="refuse",
            json_schema=False,
            images=False,
            prompt_format=form if model.prompt_format == "own" else model.prompt_format,
        )
        for name, model in models.items()
    }


def _prompt_cache_mib(section: ChatPoolSection) -> int:
    if section.prompt_cache_mib is not None:
        return section.prompt_cache_mib
    limit_mib = section.memory_limit_mib or default_limit_bytes() // MIB
    return min(limit_mib // PROMPT_CACHE_SHARE, MAX_DEFAULT_PROMPT_CACHE_MIB)
