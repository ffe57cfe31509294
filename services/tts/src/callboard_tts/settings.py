"""What a speech worker needs out of the configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from callboard_contracts.config import Config
from callboard_kit.model_files import model_path
from callboard_tts.domain.role_play import RolePlay
from callboard_worker.pool import WorkerPool, find_pool, secret

DEFAULT_MODEL_FILES = {"kokoro_onnx": "kokoro-82m-int8.onnx", "kokoro": "kokoro-82m"}
DEFAULT_VOICES = "kokoro-voices"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A speech model as clients name it, and what the engine calls it."""

    name: str
    engine_model: str
    voices: tuple[str, ...]
    voice_aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings(WorkerPool):
    """One pool as one worker sees it; times are in seconds unless the name says otherwise."""

    model_path: Path
    voices_path: Path
    threads: int | None
    device: str
    lanes: int
    """How many pieces the engine speaks at once; `slots` is how many utterances share them."""
    ahead_s: float
    admission_timeout_s: float
    max_input_characters: int
    comma_pause_ms: int
    sentence_pause_ms: int
    role_play: RolePlay = "pause"
    role_play_voice: str | None = None
    words: Mapping[str, str] = field(default_factory=dict[str, str])
    voice_words: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    hold_slice_ms: int
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
    section = find_pool("tts", config.tts.pools, pool, with_url={"openai"})
    models: dict[str, ServedModel] = {}
    for name, model in config.tts.models.items():
        if model.pool == pool:
            served = ServedModel(name, model.engine_model or name, model.voices, model.voice_aliases)
            models |= dict.fromkeys((name, *model.aliases), served)
    model_file = section.model_file or DEFAULT_MODEL_FILES.get(section.backend, "")
    return PoolSettings(
        service="tts",
        name=pool,
        backend=section.backend,
        slots=max(section.slots, section.utterances_at_once),
        lanes=section.slots,
        ahead_s=config.tts.ahead_s,
        admission_timeout_s=config.tts.admission_timeout_s,
        url=section.url,
        api_key=secret(section.api_key),
        model_path=model_path(config.site, model_file, environ),
        voices_path=model_path(config.site, section.voices_file or DEFAULT_VOICES, environ),
        threads=section.threads,
        device=section.device,
        metrics_port=section.metrics_port,
        memory_limit_mib=section.memory_limit_mib,
        stall_timeout_s=section.piece_timeout_s,
        watchdog_timeout_s=section.watchdog_timeout_s,
        drain_timeout_s=config.tts.drain_timeout_s,
        max_input_characters=config.tts.max_input_characters,
        comma_pause_ms=config.tts.comma_pause_ms,
        sentence_pause_ms=config.tts.sentence_pause_ms,
        role_play=config.tts.role_play,
        role_play_voice=config.tts.role_play_voice,
        words=config.tts.words,
        voice_words=config.tts.voice_words,
        hold_slice_ms=config.tts.hold_slice_ms,
        decision_timeout_s=config.quota.decision_timeout_s,
        admits_unheld=config.quota.on_unreachable == "admit_and_settle",
        models=models,
    )
