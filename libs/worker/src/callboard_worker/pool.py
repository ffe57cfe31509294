"""What the runtime needs to know of the pool that a worker belongs to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import SecretStr

from callboard_contracts.jobs import Service
from callboard_contracts.pools import ChatPoolSection, RecognitionPoolSection, SpeechPoolSection
from callboard_kit.lifecycle import StartError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPool:
    """One pool as one worker sees it; times are in seconds.

    An engine that is silent for `stall_timeout_s` while something is expected of it counts as failed. One that ignores
    the order to stop for `watchdog_timeout_s` ends the worker.
    """

    service: Service
    name: str
    backend: str
    slots: int
    url: str | None
    api_key: str | None
    metrics_port: int
    memory_limit_mib: int | None
    stall_timeout_s: float
    drain_timeout_s: float
    watchdog_timeout_s: float = 30.0

    @property
    def setting(self) -> str:
        """Where the configuration says how the pool is."""
        return f"{self.service}.pools.{self.name}"


S = TypeVar("S", ChatPoolSection, SpeechPoolSection, RecognitionPoolSection)


def find_pool(service: Service, pools: Mapping[str, S], name: str, with_url: Collection[str]) -> S:
    """Picks one pool out of the configuration; the backends `with_url` are engines elsewhere.

    Raises:
        StartError: there is no such pool, or it lacks the address that its backend needs.
    """
    section = pools.get(name)
    if section is None:
        allowed = ", ".join(sorted(pools)) or "none, because none is defined"
        raise StartError(f"{service}.pools: found {name!r}, allowed are {allowed}")
    if section.backend in with_url and not section.url:
        raise StartError(f"{service}.pools.{name}.url: the backend {section.backend} needs the engine's address")
    return section


def secret(value: SecretStr | None) -> str | None:
    """The text of a secret, where there is one."""
    return value.get_secret_value() if value else None
