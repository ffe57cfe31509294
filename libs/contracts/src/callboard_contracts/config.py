"""The shape of `callboard.toml`, the one configuration file that every service reads.

Reading the file, the environment over it and the secrets beside it is the kit's work; this module only says what
may stand there, in which unit, and what is taken where nothing does.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from callboard_contracts.characters import MODEL_PREFIX
from callboard_contracts.kudos_price import KudosSection
from callboard_contracts.pools import ChatSection, SttSection, TtsSection
from callboard_contracts.section import Name, Port, Section
from callboard_contracts.spirit_box import SpiritBoxSection
from callboard_contracts.webhooks import WebhooksSection

BUS_USER = "callboard"
"""The user of the bus where the configuration names only a password."""


class SiteSection(Section):
    """What concerns the whole installation."""

    data_dir: Path = Path("var")
    """Where the single-machine set-up keeps its bus store and its secrets."""
    model_dir: Path | None = None
    """Where model files are cached; left out, the user's cache folder."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe events that services log."""
    metrics_host: str = "127.0.0.1"
    """The address on which each process serves `/metrics`, `/healthz` and `/readyz`; `0.0.0.0` in a container."""
    traces_endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")
    """Where traces of requests are sent, as OTLP over HTTP, such as `http://127.0.0.1:4318`; left out, none are made.
    Needs the extra `traces` of each service."""


class NatsSection(Section):
    """How to reach the bus."""

    url: str = "nats://127.0.0.1:4222"
    """The bus; several servers of a cluster are separated by commas."""
    user: str | None = None
    """The user to connect as; left out, `callboard` where there is a password."""
    password: SecretStr | None = None
    """That user's password; best given as `CALLBOARD__NATS__PASSWORD_FILE`. Left out, the one that `callboard up` keeps
    in `site.data_dir` for a bus on this machine, and none for another."""
    nkey_seed: SecretStr | None = None
    """In place of a password, the seed of the user's NKey; best given as `CALLBOARD__NATS__NKEY_SEED_FILE`."""
    tls_ca_file: Path | None = None
    """The authorities that may have signed the bus's certificate; left out, those of the system. With any of the
    `tls_` settings, or an address `tls://`, the bus is never spoken to without TLS."""
    tls_cert_file: Path | None = None
    """This process's own certificate, for a bus that asks for one."""
    tls_key_file: Path | None = None
    """The key of that certificate."""
    replicas: int = Field(default=1, ge=1, le=5)
    """How many servers of a cluster keep each stream."""
    store_dir: Path | None = None
    """The `store_dir` of a single server on this machine that does not sync every message itself: each process then
    brings what it stores to the disk, many messages at once. `callboard up` sets it for its own bus, on file systems
    that keep a file which replaces another: ext4, btrfs and ZFS."""

    @property
    def credentials(self) -> tuple[str, str] | None:
        """The user and the password, or None."""
        return None if self.password is None else (self.user or BUS_USER, self.password.get_secret_value())

    @property
    def uses_tls(self) -> bool:
        """Whether the bus must speak TLS."""
        named = (self.tls_ca_file, self.tls_cert_file)
        return any(named) or any(server.strip().startswith("tls://") for server in self.url.split(","))

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> Self:
        if self.user is not None and self.password is None and self.nkey_seed is None:
            raise ValueError("the user has no password; set both or neither")
        if self.password is not None and self.nkey_seed is not None:
            raise ValueError("password and nkey_seed are both set; a user has one of them")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together; set both or neither")
        return self


class EdgeSection(Section):
    """The HTTP edge."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Port = 8080
    """The port to listen on."""
    metrics_port: Port = 9104
    """The port of `/metrics`, `/healthz` and `/readyz`; 0 takes a free one."""
    cors_origins: tuple[str, ...] = ("*",)
    """The origins whose pages may call from a browser."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """The networks of proxies whose `X-Forwarded-For` counts."""
    admin_token: SecretStr | None = Field(default=None, min_length=24)
    """The token that opens `/admin/v1`; best given as `CALLBOARD__EDGE__ADMIN_TOKEN_FILE`. Left out, those paths do
    not exist."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """The largest body of a request, also after decompression; never more than the bus takes as one message."""
    body_timeout_s: float = Field(default=20.0, gt=0)
    """How long a client may take to send its headers, and its body."""
    max_connections: int = Field(default=4096, ge=1)
    """How many connections may be open at once; one more closes one that waits for its client, first of
    all the oldest on which nothing was asked."""
    request_timeout_s: float = Field(default=300.0, gt=0)
    """The deadline of a request that names none."""
    drain_timeout_s: float = Field(default=30.0, gt=0)
    """How long open requests may go on after the order to stop."""


class RealtimeSection(Section):
    """Sessions of `/v1/realtime`, in which clients speak and are answered."""

    max_sessions: int = Field(default=64, ge=0)
    """How many sessions an edge holds at once; with 0 it refuses all."""
    max_sessions_per_caller: int = Field(default=8, ge=1)
    """How many of them a key may have, or an address without one."""
    max_session_s: float = Field(default=3600.0, ge=1)
    """How long a session lasts at most."""
    max_event_bytes: int = Field(default=2 * 1024 * 1024, ge=4096, le=32 * 1024 * 1024)
    """The largest event of a client; one that is twice as large ends the session."""
    max_buffer_s: float = Field(default=120.0, ge=1, le=1800)
    """How much sound a turn may have: more is refused, or ends the turn where turns are detected."""
    max_items: int = Field(default=256, ge=2, le=4096)
    """How many items a conversation keeps; the oldest is deleted for one more."""
    max_unsent_bytes: int = Field(default=2 * 1024 * 1024, ge=64 * 1024)
    """How much waits for a client that reads slowly, before its answer waits too; at 24 kHz, 64 kB a second."""
    heartbeat_s: float = Field(default=20.0, ge=1)
    """How often a silent client is asked whether it is still there; half as long after that it counts as gone."""


class RoomsSection(Section):
    """Conversations that are kept."""

    max_messages: int = Field(default=25, ge=1, le=500)
    """How many messages a room remembers at most."""
    idle_timeout_s: float = Field(default=86_400.0, ge=60)
    """After how long without a turn a room ends and is forgotten."""
    memory_timeout_s: float = Field(default=90 * 86_400.0, ge=60)
    """The same for what a character remembers of a speaker."""
    keep_alive: tuple[str, ...] = ()
    """The keys of rooms that never end by themselves."""
    recording_life_s: float | None = Field(default=None, ge=600)
    """How long what was said in rooms can be fetched as a recording; left out, nothing is recorded."""
    recording_max_mib: int = Field(default=4096, ge=64)
    """The most disk space for recordings, in MiB; a minute of speech takes three."""
    metrics_port: Port = 9105
    """The port of `/metrics`, `/healthz` and `/readyz`; 0 takes a free one."""


class TalkmasterSection(Section):
    """AI Talkmaster's scripts."""

    simulators: tuple[IPv4Network | IPv6Network, ...] = ()
    """The networks of simulators whose word is taken for who owns an object; each owner then counts as an address of
    its own."""
    speech: bool = True
    """Whether what characters answer in rooms is spoken, where the site has voices."""


class KoboldSection(Section):
    """Clients of KoboldAI, KoboldCpp and text-generation-webui."""

    path_prefix: str = Field(default="", pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$", max_length=200)
    """Where else these paths are served, such as `/lite` for a page of KoboldAI Lite at `/lite/`, which asks below its
    own address first; left out, at the root alone."""
    saves_max_mib: int = Field(default=1024, ge=16)
    """The most disk space for what callers keep in their slots, in MiB; a caller has 12 of at most 10 MiB."""
    saves_life_s: float = Field(default=365 * 86_400.0, ge=3600)
    """How long what is in a slot is kept after it was saved."""


class HordeSection(Section):
    """Clients of the AI Horde; each edge counts for itself, and 0 is no limit."""

    submits_per_s: int = Field(default=2, ge=0)
    """How many requests an address, and a key, may submit in a second."""
    submits_per_minute: int = Field(default=90, ge=0)
    """How many requests an address may submit in a minute."""
    polls_per_minute: int = Field(default=120, ge=0)
    """How often an address may ask in a minute how one request stands; clients ask up to 75 times, and give up when
    they are refused."""
    worker_calls_per_s: int = Field(default=60, ge=0)
    """How often volunteers at one address may pop, submit and tell progress in a second."""
    workers_per_account: int = Field(default=20, ge=1)
    """How many volunteers one account may have."""
    workers_per_address: int = Field(default=0, ge=0)
    """How many volunteers of one address may be there at once; those that an operator trusts do not count."""
    others_per_minute: int = Field(default=90, ge=0)
    """How often an address may ask anything else in a minute."""
    webhooks: WebhooksSection = WebhooksSection()


Bitrate = Literal[16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320]


class RoomStreamSection(Section):
    """The live MP3 streams of rooms."""

    url: str | None = Field(default=None, pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")
    """The beginning of the addresses of streams that clients are told, such as `http://voices.example:8080`. Left out,
    where the request came in."""
    bitrates_kbps: tuple[Bitrate, ...] = Field(default=(32, 64, 128, 160, 320), min_length=1)
    """The bitrates on offer, in kbit/s; a client chooses with `?bitrate=`. Up to 160 the sound has 24 kHz, above 48."""
    default_bitrate_kbps: Bitrate = 320
    """The bitrate of clients that choose none. Players that buffer a number of bytes are the sooner to be heard the
    higher it is."""
    burst_s: float = Field(default=0.75, ge=0.1, le=5)
    """How much of what was just heard a new listener gets at once, in seconds."""
    pause_s: float = Field(default=0.4, ge=0, le=10)
    """The silence between two utterances."""
    idle_loop: Path | None = None
    """A sound file of at most ten minutes that repeats while nobody speaks; left out, silence."""
    max_waiting_s: float = Field(default=1.0, ge=0.2, le=30)
    """How much sound may wait for a listener who does not read; he misses what comes beyond."""
    slow_listener_timeout_s: float = Field(default=10.0, ge=1)
    """How long a listener may miss sound before he is disconnected."""
    max_listeners: int = Field(default=1000, ge=1)
    """How many may listen at one edge process at once."""
    max_encoders: int = Field(default=100, ge=1)
    """How many rooms, each bitrate counted by itself, one edge process encodes at once."""

    @model_validator(mode="after")
    def _default_is_offered(self) -> Self:
        if self.default_bitrate_kbps not in self.bitrates_kbps:
            offered = ", ".join(map(str, self.bitrates_kbps))
            raise ValueError(f"default_bitrate_kbps: found {self.default_bitrate_kbps}, allowed are {offered}")
        return self


class LimitsSection(Section):
    """Limits; one that is left out does not apply."""

    tokens_per_day: int | None = Field(default=None, ge=0)
    """Over the last 24 hours."""
    tokens_per_month: int | None = Field(default=None, ge=0)
    """Over the calendar month, in UTC."""
    heard_seconds_per_day: int | None = Field(default=None, ge=0)
    """Of sound that is written down, over the last 24 hours."""
    heard_seconds_per_month: int | None = Field(default=None, ge=0)
    """Of sound that is written down, over the calendar month, in UTC."""
    requests_per_minute: int | None = Field(default=None, ge=0)
    """Admitted in one minute."""
    jobs_at_once: int | None = Field(default=None, ge=0)
    """Admitted and not yet ended."""


class TierSection(LimitsSection):
    """The limits of one class of callers, and what they are offered; a limit left out does not apply."""

    models: tuple[str, ...] | None = None
    """The models for text and speech that these callers are offered; left out, all. A character is offered with its
    model, or by its own name as `character/mira`; `character/*` are all characters."""
    voices: tuple[str, ...] | None = None
    """The voices that these callers are offered; left out, all."""


class WeightSection(Section):
    """What work costs, in tokens."""

    prompt_token_cost: float = Field(default=1.0, ge=0)
    """For each token of a prompt."""
    completion_token_cost: float = Field(default=1.0, ge=0)
    """For each token of a reply."""
    audio_cost_per_second: float = Field(default=100.0, ge=0)
    """For each second of speech that is spoken."""
    heard_cost_per_second: float = Field(default=100.0, ge=0)
    """For each second of sound that is written down."""
    model_factors: dict[str, float] = Field(default_factory=dict)
    """By model, what its work is multiplied by; 1 where it is not named."""


class QuotaSection(Section):
    """Who may use how much."""

    on_unreachable: Literal["refuse", "admit_and_settle"] = "refuse"
    """What the edge does with a request while no quota process answers."""
    require_key: bool = False
    """Whether requests without a key are refused."""
    anonymous_tier: Name = "anonymous"
    """The tier of callers without a key."""
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
    """The port of `/metrics`, `/healthz` and `/readyz`; 0 takes a free one."""
    decision_timeout_s: float = Field(default=2.0, gt=0)
    """How long quota may be silent about a decision before it counts as away."""
    longest_decision_s: float = Field(default=15.0, ge=0, le=60)
    """The longest that a request waits for a decision while the bus elects a leader, or until a quota process is back
    where `on_unreachable` refuses."""
    holds_ahead: bool = True
    """Whether an edge takes the hold for the next chat of a caller who asks again at once, far from every limit."""
    lease_margin_s: float = Field(default=30.0, gt=0)
    """How long after its job's deadline an unsettled hold is kept before the reaper ends it."""
    reap_interval_s: float = Field(default=5.0, gt=0)
    """How often expired holds are looked for."""


class Config(Section):
    """The whole of `callboard.toml`."""

    site: SiteSection = SiteSection()
    nats: NatsSection = NatsSection()
    edge: EdgeSection = EdgeSection()
    chat: ChatSection = ChatSection()
    tts: TtsSection = TtsSection()
    stt: SttSection = SttSection()
    rooms: RoomsSection = RoomsSection()
    talkmaster: TalkmasterSection = TalkmasterSection()
    kobold: KoboldSection = KoboldSection()
    horde: HordeSection = HordeSection()
    spirit_box: SpiritBoxSection = SpiritBoxSection()
    realtime: RealtimeSection = RealtimeSection()
    kudos: KudosSection = KudosSection()
    room_stream: RoomStreamSection = RoomStreamSection()
    quota: QuotaSection = QuotaSection()

    @model_validator(mode="after")
    def _names_resolve(self) -> Self:
        for service, section in (("chat", self.chat), ("tts", self.tts), ("stt", self.stt)):
            for name, model in section.models.items():
                if model.pool not in section.pools:
                    raise ValueError(_unknown(f"{service}.models.{name}.pool", model.pool, section.pools))
            if section.default_model is not None and section.default_model not in section.models:
                raise ValueError(_unknown(f"{service}.default_model", section.default_model, section.models))
        for key, tier in (
            ("quota.anonymous_tier", self.quota.anonymous_tier),
            ("quota.address_tier", self.quota.address_tier),
            ("quota.site_tier", self.quota.site_tier),
            ("quota.default_tier", self.quota.default_tier),
            *((f"quota.model_tiers.{model}", tier) for model, tier in self.quota.model_tiers.items()),
        ):
            if tier is not None and tier not in self.quota.tiers:
                raise ValueError(_unknown(key, tier, self.quota.tiers))
        models = {*self.chat.models, *self.tts.models, *self.stt.models}
        for name, tier_section in self.quota.tiers.items():
            for model in tier_section.models or ():
                if model not in models and not model.startswith(MODEL_PREFIX):
                    raise ValueError(_unknown(f"quota.tiers.{name}.models", model, models))
        return self

    @model_validator(mode="after")
    def _spirit_box_has_models(self) -> Self:
        box = self.spirit_box
        for key, model, offered in (
            ("transcription_model", box.transcription_model, self.stt.models),
            ("chat_model", box.chat_model, self.chat.models),
            ("speech_model", box.speech_model, self.tts.models),
        ):
            if model is None and box.enabled and not offered:
                raise ValueError(f"spirit_box.{key}: none is defined; a spirit box hears, answers and speaks")
            if (
                model is not None
                and model not in offered
                and not (key == "chat_model" and model.startswith(MODEL_PREFIX))
            ):
                raise ValueError(_unknown(f"spirit_box.{key}", model, offered))
        return self


def _unknown(key: str, found: str, allowed: Iterable[str]) -> str:
    return f"{key}: found {found!r}, allowed are {', '.join(sorted(allowed)) or 'none, because none is defined'}"
