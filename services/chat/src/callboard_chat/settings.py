"""What a chat worker needs out of the configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from callboard_chat.domain.models import ServedModel
from callboard_chat.domain.volunteer_models import VolunteerModels
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
    models: dict[str, ServedModel] = {}
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
        models |= dict.fromkeys((name, *model.aliases), served)
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
        models=VolunteerModels(models, section.prompt_format) if volunteers else models,
        volunteer_time_s=section.volunteer_time_s,
        kudos=config.kudos,
    )


def _prompt_cache_mib(section: ChatPoolSection) -> int:
    if section.prompt_cache_mib is not None:
        return section.prompt_cache_mib
    limit_mib = section.memory_limit_mib or default_limit_bytes() // MIB
    return min(limit_mib // PROMPT_CACHE_SHARE, MAX_DEFAULT_PROMPT_CACHE_MIB)
