"""Declares the streams, consumers and buckets of the contracts on the server."""

import logging
from typing import Any

from callboard_contracts.config import Config
from callboard_contracts.streams import BucketSpec, ConsumerSpec, StreamSpec, buckets, consumers, streams
from callboard_kit.bus import ApiError, Bus

log = logging.getLogger(__name__)

NOT_FOUND = 404


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
