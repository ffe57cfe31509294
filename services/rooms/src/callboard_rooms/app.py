"""The composition root of the rooms service: the only place that knows all its parts."""

import argparse
import asyncio
import logging
import random
import secrets

from callboard_contracts.config import Config
from callboard_contracts.permissions import checked_streams
from callboard_contracts.streams import stored_streams
from callboard_contracts.subjects import ROOMS_POST
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.broker import BusBroker
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import Shutdown, TaskSupervisor
from callboard_kit.process_memory import settle_memory
from callboard_kit.quota_rpc import QuotaRpc
from callboard_kit.resources import bus_connection, ops_server
from callboard_kit.store_health import StoreHealth
from callboard_rooms.backends.character_store import BucketCharacterStore, BusCharacterNews
from callboard_rooms.backends.room_audio import BusRoomAudio
from callboard_rooms.backends.room_news import BusRoomNews
from callboard_rooms.backends.room_store import BucketRoomStore
from callboard_rooms.backends.turn_jobs import BusTurnJobs
from callboard_rooms.backends.turn_results import BusTurnResults
from callboard_rooms.domain.characters import CharacterService
from callboard_rooms.domain.dialogue import Limits
from callboard_rooms.domain.ports import StoreUnavailable
from callboard_rooms.domain.reaper import Reaper
from callboard_rooms.domain.room import IdlePolicy
from callboard_rooms.domain.rooms import RoomService
from callboard_rooms.domain.turns import TurnEffects
from callboard_rooms.handlers.rpc import RoomHandlers
from callboard_rooms.handlers.turns import TurnFeed
from callboard_rooms.metrics import Figures, begin

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 10.0
REAP_INTERVAL_S = 2.0
JOIN_PAUSE_S = 0.25


async def main(config: Config, shutdown: Shutdown, _arguments: argparse.Namespace) -> None:
    """Runs the rooms service until it is told to stop."""
    async with bus_connection(config.nats, "rooms", shutdown) as bus:
        health = StoreHealth(bus, f"rooms-{secrets.token_hex(6)}", checked_streams("rooms", stored_streams(config)))
        background, in_flight = BackgroundTasks(), BackgroundTasks()
        store, jobs = BucketRoomStore(bus), BusTurnJobs(bus)
        holds = QuotaRpc(bus, config.quota.decision_timeout_s, background.start, config.quota.longest_decision_s)
        effects = TurnEffects(jobs, BusTurnResults(bus), BusRoomAudio(bus), holds)
        limits = Limits(
            max_messages=config.rooms.max_messages,
            context_tokens={name: model.context_tokens for name, model in config.chat.models.items()},
            max_request_bytes=jobs.max_request_bytes,
            max_document_bytes=store.max_document_bytes,
        )
        timeouts = config.rooms.idle_timeout_s, config.rooms.memory_timeout_s
        policy = IdlePolicy(*timeouts, frozenset(config.rooms.keep_alive))
        rooms = RoomService(store, effects, BusRoomNews(bus), Figures(), background, bus.clock.now, limits, policy)
        reaper = Reaper(store, rooms, policy, bus.clock.now)
        bus.on_reconnect(reaper.forget)
        names = [name for model, one in config.chat.models.items() for name in (model, *one.aliases)]
        characters = CharacterService(BucketCharacterStore(bus), BusCharacterNews(bus), names, bus.clock.now)
        handlers = RoomHandlers(bus, rooms, characters, in_flight)
        broker = BusBroker(bus, in_flight, {ROOMS_POST: handlers.post}, [handlers])
        handlers.subscribe(broker)
        feed = TurnFeed(bus, rooms)
        begin(reaper)

        def ready() -> str | None:
            if not bus.connected:
                return "no connection to the bus"
            if not broker.joined or shutdown.stopping:
                return "starting or stopping"
            return health.reason

        port, host = config.rooms.metrics_port, config.site.metrics_host
        async with ops_server("rooms.metrics_port", port, ready, host), TaskSupervisor(shutdown) as supervisor:
            supervisor.start(health.run(), "store-health")
            supervisor.start(_serve(bus, broker, feed, reaper), "rooms")
            settle_memory()
            await shutdown.wait()
            await broker.drain()
            await in_flight.close(DRAIN_TIMEOUT_S)
            await feed.drain(DRAIN_TIMEOUT_S)
            await background.close(DRAIN_TIMEOUT_S)


async def _serve(bus: Bus, broker: BusBroker, feed: TurnFeed, reaper: Reaper) -> None:
    """Takes requests and the ends of turns once the bus has told its time, by which turns are late."""
    while not broker.joined:
        try:
            if bus.clock.known:
                await broker.join()
        except BusError as error:
            log.warning("task_postponed", extra={"reason": str(error)})
        await asyncio.sleep(JOIN_PAUSE_S)
    async with asyncio.TaskGroup() as group:
        group.create_task(feed.run())
        group.create_task(_reap(reaper))


async def _reap(reaper: Reaper) -> None:
    while True:
        try:
            await reaper.pass_once()
        except StoreUnavailable as error:
            log.warning("task_postponed", extra={"reason": str(error)})
        # Processes that were started together do not stay in step.
        await asyncio.sleep(REAP_INTERVAL_S * random.uniform(0.75, 1.25))
