"""Declares the streams, consumers and buckets of the contracts on the server."""

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from callboard_contracts.config import Config
from callboard_contracts.streams import (
    JOB_STREAMS,
    BucketSpec,
    ConsumerSpec,
    StreamSpec,
    buckets,
    consumers,
    streams,
)
from callboard_kit.bus import ApiError, Bus

log = logging.getLogger(__name__)

NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class UnusedConsumer:
    """A consumer of a work queue whose pool the configuration does not name; `jobs` wait or run."""

    stream: str
    name: str
    filter_subject: str
    jobs: int


async def apply_streams(bus: Bus, config: Config) -> list[str]:
    """Creates what is missing, updates what differs, and returns the names of what changed; safe to repeat.

    Raises:
        ApiError: the server refuses a declaration.
        BusUnavailable: the server does not answer.
    """
    replicas = config.nats.replicas
    touched = [spec.name for spec in (*streams(config), *buckets()) if await _apply_stream(bus, spec, replicas)]
    touched += [spec.name for spec in consumers(config) if await _apply_consumer(bus, spec)]
    log.info("streams_applied", extra={"touched": touched})
    return touched


async def unused_consumers(bus: Bus, config: Config) -> list[UnusedConsumer]:
    """The consumers that pools left behind when they were taken out of the configuration; raises as `apply_streams`."""
    declared = {(spec.stream, spec.name) for spec in consumers(config)}
    found: list[UnusedConsumer] = []
    for stream in JOB_STREAMS.values():
        async for info in _consumers_of(bus, stream):
            if (stream, info["name"]) not in declared:
                jobs = info["num_pending"] + info["num_ack_pending"]
                found.append(UnusedConsumer(stream, info["name"], info["config"].get("filter_subject", ""), jobs))
    return found


async def remove_consumer(bus: Bus, consumer: UnusedConsumer) -> None:
    """Removes a consumer and its jobs, which nobody would do any more; raises as `apply_streams`."""
    await bus.api(f"CONSUMER.DELETE.{consumer.stream}.{consumer.name}", {})
    if consumer.filter_subject:
        await bus.api(f"STREAM.PURGE.{consumer.stream}", {"filter": consumer.filter_subject})


async def _consumers_of(bus: Bus, stream: str) -> AsyncGenerator[dict[str, Any]]:
    offset = 0
    while True:
        page = await bus.api(f"CONSUMER.LIST.{stream}", {"offset": offset})
        some: list[dict[str, Any]] = page.get("consumers") or []
        for info in some:
            yield info
        offset += len(some)
        if not some or offset >= page["total"]:
            return


async def _apply_stream(bus: Bus, spec: StreamSpec | BucketSpec, replicas: int) -> bool:
    wanted = spec.config(replicas)
    name = wanted["name"]
    try:
        found: dict[str, Any] = (await bus.api(f"STREAM.INFO.{name}", {}))["config"]
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise
        await bus.api(f"STREAM.CREATE.{name}", wanted)
        return True
    if _agrees(found, wanted):
        return False
    await bus.api(f"STREAM.UPDATE.{name}", {**found, **wanted})
    return True


async def _apply_consumer(bus: Bus, spec: ConsumerSpec) -> bool:
    wanted = spec.config()
    try:
        found: dict[str, Any] = (await bus.api(f"CONSUMER.INFO.{spec.stream}.{spec.name}", {}))["config"]
        if _agrees(found, wanted):
            return False
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise
    await bus.api(
        f"CONSUMER.CREATE.{spec.stream}.{spec.name}.{spec.filter_subject}",
        {"stream_name": spec.stream, "config": {**wanted, "name": spec.name}},
    )
    return True


def _agrees(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether every declared field stands as declared; the server leaves out fields that are zero or false."""
    return all(found.get(key, type(value)()) == value for key, value in wanted.items())
