"""The shape of `callboard.toml`, the one configuration file that every service reads.

Reading the file, the environment over it and the secrets beside it is the kit's work; this module only says what
may stand there, in which unit, and what is taken where nothing does.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Section(BaseModel):
    """A table of the file; a key that is not known is an error, so that a misspelt setting never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteSection(Section):
    """What concerns the whole installation."""

    data_dir: Path = Path("var")
    """Where the single-machine set-up keeps its bus store and its secrets."""
    model_dir: Path | None = None
    """Where model files are cached; left out, the user's cache folder."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class NatsSection(Section):
    """How to reach the bus."""

    url: str = "nats://127.0.0.1:4222"
    user: str | None = None
    password: SecretStr | None = None
    replicas: int = Field(default=1, ge=1, le=5)


class EdgeSection(Section):
    """The HTTP edge."""

    host: str = "127.0.0.1"
    port: Port = 8080
    metrics_port: Port = 9100
    cors_origins: tuple[str, ...] = ("*",)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    body_timeout_s: float = Field(default=20.0, gt=0)
    """How long a client may take to send its headers, and its body."""
    request_timeout_s: float = Field(default=300.0, gt=0)
    """The deadline of a request that names none."""
    drain_timeout_s: float = Field(default=30.0, gt=0)


class ChatModelSection(Section):
    """A model as clients see it."""

    pool: Name
    engine_model: str | None = None
    """The name that the engine knows the model by; left out, the public name."""
    aliases: tuple[str, ...] = ()
    context_tokens: int = Field(default=4096, ge=128)
    max_output_tokens: int = Field(default=1024, ge=1)
    """The most that one reply may have, and what is held for a request that names no limit."""
    tools: bool = False
    json_schema: bool = True


class ChatPoolSection(Section):
    """A group of like workers and the engine behind them."""

    backend: Literal["llamacpp", "ollama", "openai", "fake"]
    slots: int = Field(default=4, ge=1, le=1024)
    url: str | None = None
    """The engine's address, for `ollama` and `openai` (there with its version segment)."""
    api_key: SecretStr | None = None
    model_file: str | None = None
    """For `llamacpp`: the name of a file that `callboard models` knows, or a path to a GGUF file."""
    threads: int | None = Field(default=None, ge=1)
    resume: Literal["prefill", "restart"] = "prefill"
    """How a reply goes on after its worker died: `prefill` hands the engine what was already said as the start of
    its answer; `restart` ends the reply with a retryable error instead."""
    metrics_port: Port = 0
    max_queued_per_tenant: int = Field(default=64, ge=1)
    connect_timeout_s: float = Field(default=5.0, gt=0)
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """The longest silence of an engine in the middle of a reply before it counts as failed."""


class ChatSection(Section):
    """Chat pools and the models they serve."""

    pools: dict[Name, ChatPoolSection] = Field(default_factory=dict)
    models: dict[str, ChatModelSection] = Field(default_factory=dict)
    default_model: str | None = None
    drain_timeout_s: float = Field(default=30.0, gt=0)


class SpeechModelSection(Section):
    """A speech model as clients see it."""

    pool: Name
    engine_model: str | None = None
    aliases: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    """The voices on offer; left out, all voices that the backend knows (Kokoro's)."""
    voice_aliases: dict[str, str] = Field(default_factory=dict)
    default_voice: str = "af_heart"


class SpeechPoolSection(Section):
    """A group of like speech workers and the engine behind them."""

    backend: Literal["kokoro_onnx", "kokoro", "openai", "fake"]
    slots: int = Field(default=1, ge=1, le=256)
    url: str | None = None
    api_key: SecretStr | None = None
    model_file: str | None = None
    voices_file: str | None = None
    threads: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    metrics_port: Port = 0
    max_queued_per_tenant: int = Field(default=64, ge=1)
    piece_timeout_s: float = Field(default=60.0, gt=0)


class TtsSection(Section):
    """Speech pools, the models they serve, and how speech sounds."""

    pools: dict[Name, SpeechPoolSection] = Field(default_factory=dict)
    models: dict[str, SpeechModelSection] = Field(default_factory=dict)
    max_input_characters: int = Field(default=4096, ge=1)
    comma_pause_ms: int = Field(default=300, ge=0, le=5000)
    sentence_pause_ms: int = Field(default=600, ge=0, le=5000)
    drain_timeout_s: float = Field(default=30.0, gt=0)


class TierSection(Section):
    """The limits of one class of callers; a limit left out does not apply."""

    tokens_per_day: int | None = Field(default=None, ge=0)
    tokens_per_month: int | None = Field(default=None, ge=0)
    requests_per_minute: int | None = Field(default=None, ge=0)
    jobs_at_once: int | None = Field(default=None, ge=0)


class WeightSection(Section):
    """What work costs, in tokens."""

    prompt_token_cost: float = Field(default=1.0, ge=0)
    completion_token_cost: float = Field(default=1.0, ge=0)
    audio_cost_per_second: float = Field(default=100.0, ge=0)
    model_factors: dict[str, float] = Field(default_factory=dict)


class QuotaSection(Section):
    """Who may use how much."""

    on_unreachable: Literal["refuse", "admit_and_settle"] = "refuse"
    """What the edge does with a request while no quota process answers."""
    require_key: bool = False
    anonymous_tier: Name = "anonymous"
    address_tier: Name | None = None
    """The tier whose limits apply to each client address beside those of the key; left out, none."""
    site_tier: Name | None = None
    """The tier whose limits apply to the whole installation; left out, none."""
    model_tiers: dict[str, Name] = Field(default_factory=dict)
    """The tier whose limits apply to one model over all callers."""
    default_tier: Name = "standard"
    """The tier of a key that was created without one."""
    tiers: dict[Name, TierSection] = Field(
        default_factory=lambda: {"anonymous": TierSection(), "standard": TierSection()}
    )
    weights: WeightSection = WeightSection()
    metrics_port: Port = 9103
    decision_timeout_s: float = Field(default=2.0, gt=0)
    lease_margin_s: float = Field(default=30.0, gt=0)
    """How long after its job's deadline an unsettled hold is kept before the reaper ends it."""
    reap_interval_s: float = Field(default=5.0, gt=0)


class Config(Section):
    """The whole of `callboard.toml`."""

    site: SiteSection = SiteSection()
    nats: NatsSection = NatsSection()
    edge: EdgeSection = EdgeSection()
    chat: ChatSection = ChatSection()
    tts: TtsSection = TtsSection()
    quota: QuotaSection = QuotaSection()

    @model_validator(mode="after")
    def _names_resolve(self) -> Self:
        for name, model in self.chat.models.items():
            if model.pool not in self.chat.pools:
                raise ValueError(_unknown(f"chat.models.{name}.pool", model.pool, self.chat.pools))
        for name, model in self.tts.models.items():
            if model.pool not in self.tts.pools:
                raise ValueError(_unknown(f"tts.models.{name}.pool", model.pool, self.tts.pools))
        if self.chat.default_model is not None and self.chat.default_model not in self.chat.models:
            raise ValueError(_unknown("chat.default_model", self.chat.default_model, self.chat.models))
        for key, tier in (
            ("quota.anonymous_tier", self.quota.anonymous_tier),
            ("quota.address_tier", self.quota.address_tier),
            ("quota.site_tier", self.quota.site_tier),
            ("quota.default_tier", self.quota.default_tier),
            *((f"quota.model_tiers.{model}", tier) for model, tier in self.quota.model_tiers.items()),
        ):
            if tier is not None and tier not in self.quota.tiers:
                raise ValueError(_unknown(key, tier, self.quota.tiers))
        return self


def _unknown(key: str, found: str, allowed: Iterable[str]) -> str:
    return f"{key}: found {found!r}, allowed are {', '.join(sorted(allowed)) or 'none, because none is defined'}"
