"""What the edge needs out of the configuration, as plain values."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from callboard_contracts.config import Config, HordeSection
from callboard_contracts.kudos_price import KudosSection
from callboard_contracts.pools import ChatSection, SttSection, TtsSection


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """The settings that the HTTP handlers work with; durations in seconds, sizes in bytes."""

    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    max_body_bytes: int
    body_timeout_s: float
    max_connections: int
    require_key: bool
    speech: TtsSection
    stt: SttSection
    simulators: tuple[IPv4Network | IPv6Network, ...]
    speaks_in_rooms: bool
    kobold_prefix: str
    horde: HordeSection
    kudos: KudosSection
    volunteer_models: Mapping[str, tuple[str, ...]]
    """The names by which volunteers offer chat models, where they are others."""
    chat_models: Set[str]
    """The chat models that the configuration names, beside which volunteers offer others."""
    shared_pools: Mapping[str, int]
    """The chat pools whose jobs their own engine and volunteers share, and how many slots of each worker are for jobs
    of volunteers, or that wait."""


def edge_settings(config: Config, max_request_bytes: int) -> EdgeSettings:
    """Picks the edge's settings out of the whole configuration; no body is larger than what a job can carry."""
    edge = config.edge
    return EdgeSettings(
        cors_origins=edge.cors_origins,
        trusted_proxies=edge.trusted_proxies,
        max_body_bytes=min(edge.max_body_bytes, max_request_bytes),
        body_timeout_s=edge.body_timeout_s,
        max_connections=edge.max_connections,
        require_key=config.quota.require_key,
        speech=config.tts,
        stt=config.stt,
        simulators=config.talkmaster.simulators,
        speaks_in_rooms=config.talkmaster.speech,
        kobold_prefix=config.kobold.path_prefix,
        horde=config.horde,
        kudos=config.kudos,
        volunteer_models=_volunteer_models(config.chat),
        chat_models=frozenset(config.chat.models),
        shared_pools={name: pool.volunteer_slots for name, pool in config.chat.pools.items() if pool.is_shared},
    )


def _volunteer_models(chat: ChatSection) -> dict[str, tuple[str, ...]]:
    found = {
        name: model.volunteer_models
        if chat.pools[model.pool].is_shared
        else (model.engine_model,)
        if model.engine_model
        else ()
        for name, model in chat.models.items()
    }
    return {name: names for name, names in found.items() if names}
