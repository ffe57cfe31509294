"""What a worker that writes down speech needs out of the configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from callboard_contracts.config import Config
from callboard_kit.model_files import model_path
from callboard_stt.domain.models import ServedModel
from callboard_worker.pool import WorkerPool, find_pool, secret

DEFAULT_MODEL = "whisper-base"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings(WorkerPool):
    """One pool as one worker sees it."""

    model_path: Path
    threads: int | None
    device: str
    beam_size: int
    max_audio_s: float
    decision_timeout_s: float
    admits_unheld: bool
    """Whether work goes on without a hold while quota is away."""
    models: Mapping[str, ServedModel]
    """The models of this pool by the names that clients use, aliases among them."""


def pool_settings(config: Config, pool: str, environ: Mapping[str, str] = os.environ) -> PoolSettings:
    """Picks one pool out of the configuration.

    Raises:
        StartError: there is no such pool, or it lacks what its backend needs.
    """
    section = find_pool("stt", config.stt.pools, pool, with_url={"openai"})
    models: dict[str, ServedModel] = {}
    for name, model in config.stt.models.items():
        if model.pool == pool:
            served = ServedModel(name, model.engine_model or name, model.translation)
            models |= dict.fromkeys((name, *model.aliases), served)
    return PoolSettings(
        service="stt",
        name=pool,
        backend=section.backend,
        slots=section.slots,
        url=section.url,
        api_key=secret(section.api_key),
        model_path=model_path(config.site, section.model_file or DEFAULT_MODEL, environ),
        threads=section.threads,
        device=section.device,
        beam_size=section.beam_size,
        metrics_port=section.metrics_port,
        memory_limit_mib=section.memory_limit_mib,
        stall_timeout_s=section.segment_timeout_s,
        watchdog_timeout_s=section.watchdog_timeout_s,
        drain_timeout_s=config.stt.drain_timeout_s,
        max_audio_s=config.stt.max_audio_s,
        decision_timeout_s=config.quota.decision_timeout_s,
        admits_unheld=config.quota.on_unreachable == "admit_and_settle",
        models=models,
    )
