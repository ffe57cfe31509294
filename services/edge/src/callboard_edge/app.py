"""The composition root: the one place where the edge's parts are put together."""

import argparse
import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from nats.aio.msg import Msg

from callboard_admin.accounts import Accounts
from callboard_admin.character_records import CharacterRecords
from callboard_admin.kudos_records import KudosRecords
from callboard_admin.room_records import RoomRecords
from callboard_admin.usage_records import UsageRecords
from callboard_contracts.accounts import KEY_PREFIX
from callboard_contracts.config import Config, QuotaSection
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.permissions import checked_streams
from callboard_contracts.streams import key_life_s, stored_streams
from callboard_contracts.subjects import CTL_ACCOUNTS
from callboard_contracts.webhooks import WebhooksSection
from callboard_edge.backends.character_watch import CharacterWatch
from callboard_edge.backends.job_queue import BusJobQueue
from callboard_edge.backends.model_inquiry import BusModelInquiry
from callboard_edge.backends.quota_client import BusQuotaClient
from callboard_edge.backends.reply_router import BusReplyRouter
from callboard_edge.backends.result_store import BusResultStore
from callboard_edge.backends.room_audio import BusRoomAudio
from callboard_edge.backends.rooms import BusRoomReader, BusRoomsClient
from callboard_edge.backends.running_replies import BusRunningReplies
from callboard_edge.backends.saved_slots import BusSavedSlots
from callboard_edge.backends.volunteer_store import BusVolunteerStore
from callboard_edge.backends.volunteer_watch import VolunteerWatch
from callboard_edge.backends.volunteer_workers import BusVolunteerWorkers
from callboard_edge.backends.webhook_caller import HttpWebhookCaller
from callboard_edge.backends.webhook_queue import BusWebhookQueue, WebhookFeed
from callboard_edge.backends.worker_watch import WorkerWatch
from callboard_edge.composition import edge_context
from callboard_edge.domain.administration import Administration
from callboard_edge.domain.characters import Characters
from callboard_edge.domain.holds_ahead import HoldsAhead
from callboard_edge.domain.running_replies import FollowedReplies
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.uptime_rewards import UptimeRewards
from callboard_edge.domain.volunteers import Volunteers
from callboard_edge.domain.webhooks import Webhooks
from callboard_edge.domain.workers import Workers
from callboard_edge.http.protocol import Protocol
from callboard_edge.http.server import LAST_EVENT_S, EdgeServer
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.media.idle_loop import IdleLoopError, read_loop
from callboard_edge.media.room_streams import RoomStreams
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.protocols.admin.auth import token_digest
from callboard_edge.protocols.admin.protocol import Admin
from callboard_edge.protocols.anthropic.protocol import Anthropic
from callboard_edge.protocols.characters.protocol import CharactersProtocol
from callboard_edge.protocols.horde.protocol import Horde
from callboard_edge.protocols.kobold.protocol import Kobold
from callboard_edge.protocols.ollama.protocol import Ollama
from callboard_edge.protocols.openai.protocol import OpenAI
from callboard_edge.protocols.spiritbox.protocol import SpiritBoxProtocol
from callboard_edge.protocols.talkmaster.protocol import Talkmaster
from callboard_kit import library_output
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown, StartError, TaskSupervisor
from callboard_kit.memory_limit import give_memory_back
from callboard_kit.payload_cipher import erase_keys
from callboard_kit.process_memory import settle_memory
from callboard_kit.resources import bus_connection, ops_server
from callboard_kit.settings import SettingsError, load_config
from callboard_kit.store_health import StoreHealth

log = logging.getLogger(__name__)

PROTOCOLS: tuple[Protocol, ...] = (
    OpenAI(),
    Anthropic(),
    CharactersProtocol(),
    Talkmaster(),
    Kobold(),
    Horde(),
    Ollama(),
    SpiritBoxProtocol(),
    Admin(),
)
"""Every protocol that the edge speaks."""

QUOTA = "quota"
"""The name by which `callboard up` knows the quota service."""
BACKGROUND_TIMEOUT_S = 3.0
STOPPED = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The server is shutting down; try again.", retry_after_s=1.0)


def administration(config: Config, bus: Bus, file: Path | None) -> Administration | None:
    """What the admin API works with, or None where the configuration has no token for it.

    Raises:
        StartError: the token looks like an API key.
    """
    if config.edge.admin_token is None:
        return None
    token = config.edge.admin_token.get_secret_value()
    if token.startswith(KEY_PREFIX):
        raise StartError(f"edge.admin_token: begins with {KEY_PREFIX}, as API keys do; choose another")

    async def quota() -> QuotaSection:
        # Quota follows changes of the file too, so a tier that was just added can be given out.
        try:
            return (await asyncio.to_thread(load_config, file)).quota
        except SettingsError:
            log.warning("settings_unreadable")
            return config.quota

    return Administration(
        token_digest(token),
        Accounts.on(bus),
        UsageRecords(bus),
        KudosRecords(bus),
        RoomRecords.on(bus),
        CharacterRecords.on(bus),
        quota,
    )


async def serve(
    config: Config, shutdown: Shutdown, arguments: argparse.Namespace, protocols: Sequence[Protocol] = PROTOCOLS
) -> None:
    """Runs the edge until it is told to stop, then drains it.

    Raises:
        StartError: the bus cannot be reached, or a port is taken.
    """
    give_memory_back()
    edge_id = uuid4().hex[:12]
    async with bus_connection(config.nats, f"edge-{edge_id}", shutdown) as bus:
        admin = administration(config, bus, arguments.config)
        await _serve(config, shutdown, bus, edge_id, admin, protocols)


async def _serve(
    config: Config,
    shutdown: Shutdown,
    bus: Bus,
    edge_id: str,
    admin: Administration | None,
    protocols: Sequence[Protocol],
) -> None:
    metrics = EdgeMetrics()
    replies = BusReplyRouter(bus, edge_id, metrics.dropped_messages.inc, metrics.replays.inc)
    background = BackgroundTasks()
    encoders = EncoderPool()
    workers = Workers()
    characters = Characters()
    store = StoreHealth(bus, f"edge-{edge_id}", checked_streams("edge", stored_streams(config)))
    quota = BusQuotaClient(
        bus,
        background,
        config.quota.decision_timeout_s,
        config.quota.on_unreachable,
        metrics.admitted_without_quota.inc,
        require_key=config.quota.require_key,
        wait_s=config.quota.longest_decision_s,
    )
    ahead = HoldsAhead(
        quota,
        background,
        bus.clock.now,
        metrics.hold_ahead_ended,
        enabled=config.quota.holds_ahead,
    )
    uptime_rewards = UptimeRewards(config.kudos, quota, background)
    volunteers = Volunteers(
        BusVolunteerStore(bus), bus.clock.now, config.horde.workers_per_account, uptime_rewards.seen
    )
    watches = WorkerWatch(bus, workers), CharacterWatch(bus, characters), VolunteerWatch(bus, volunteers)
    deps = Dependencies(
        quota=ahead,
        jobs=BusJobQueue(bus),
        replies=replies,
        background=background,
        rooms=BusRoomsClient(bus),
        room_reader=BusRoomReader(bus),
        inquiry=BusModelInquiry(bus),
        now=bus.clock.now,
    )

    def ready() -> str | None:
        if shutdown.stopping:
            return "stopping"
        if not bus.connected:
            return "the bus is not connected"
        if not bus.clock.known:
            return "the bus has not told its time"
        if store.reason is None and any(one.name == QUOTA and one.state == "failed" for one in workers.processes()):
            return "quota ended too often and is not started again"
        return store.reason

    metrics.watch_pools(config, workers, deps.waiting)
    metrics.characters.set_function(lambda: len(characters))
    metrics.volunteers_online.set_function(lambda: len(volunteers.online()))
    loop = await idle_loop(config.room_stream.idle_loop)
    streams = RoomStreams(BusRoomAudio(bus), background, config.room_stream, metrics, bus.clock.now, loop)
    others = BusRunningReplies(bus)
    running = FollowedReplies(others)
    kobold = config.kobold
    slots = BusSavedSlots(bus, kobold.saves_max_mib * 1024 * 1024, kobold.saves_life_s, bus.clock.now)
    results = BusResultStore(bus)
    webhooks = _Webhooks(bus, config.horde.webhooks)
    context = edge_context(
        config,
        deps,
        results,
        workers,
        encoders,
        streams,
        metrics,
        ready,
        admin,
        holds_ahead=ahead,
        running=running,
        characters=characters,
        saved_slots=slots,
        volunteers=volunteers,
        volunteer_workers=BusVolunteerWorkers(bus),
        webhook_queue=webhooks.queue,
        webhook_caller=webhooks.caller,
    )
    metrics.webhooks_waiting.set_function(webhooks.waiting)
    server = EdgeServer(context, protocols)
    library_output.hide()
    try:
        await replies.start()
        for watch in watches:
            await watch.start()
        await others.start(running.answer)
        await drop_when_accounts_change(bus, ahead)
        try:
            port = await server.start(config.edge.host, config.edge.port)
        except OSError as error:
            raise StartError(f"edge.port: {config.edge.port}: {error.strerror}") from None
        metrics_port, host = config.edge.metrics_port, config.site.metrics_host
        async with (
            ops_server("edge.metrics_port", metrics_port, ready, host) as ops,
            TaskSupervisor(shutdown) as supervisor,
        ):
            supervisor.start(replies.send_heartbeats(), "heartbeats")
            for watch in watches:
                supervisor.start(watch.run(), watch.name)
            supervisor.start(store.run(), "store-health")
            supervisor.start(ahead.run(), "holds-ahead")
            supervisor.start(volunteers.run(), "volunteers")
            supervisor.start(streams.run(), "room-streams")
            webhooks.start(context.webhooks, supervisor)
            supervisor.start(erase_keys(bus, key_life_s(config)), "key-erasure")
            settle_memory()
            log.info("listening", extra={"port": port, "metrics_port": ops.port, "edge": edge_id})
            await shutdown.wait()
            await server.stop_listening()
            streams.close()
            context.live_sessions.stopping.set()
            await webhooks.drain()
            await _drain(server, replies, config.edge.drain_timeout_s)
            await volunteers.flush()
    finally:
        await server.close()
        encoders.close()
        await webhooks.close()
        await background.close(BACKGROUND_TIMEOUT_S)
        await replies.close()
        for watch in watches:
            await watch.close()
        await others.close()


class _Webhooks:
    """What calls webhooks, where the site does."""

    def __init__(self, bus: Bus, settings: WebhooksSection) -> None:
        self.queue = BusWebhookQueue(bus)
        self.caller = HttpWebhookCaller(settings) if settings.enabled else None
        self._bus = bus
        self._settings = settings
        self._feed: WebhookFeed | None = None

    def waiting(self) -> int:
        """How many are in this edge's hands."""
        return 0 if self._feed is None else self._feed.handling()

    def start(self, webhooks: Webhooks | None, supervisor: TaskSupervisor) -> None:
        """Takes webhooks from now on."""
        if webhooks is not None:
            self._feed = WebhookFeed(self._bus, webhooks.call, self._settings.max_waiting)
            supervisor.start(self._feed.run(), "webhooks")

    async def drain(self) -> None:
        """Takes no more, and leaves those that wait to other edges."""
        if self._feed is not None:
            await self._feed.drain(LAST_EVENT_S)

    async def close(self) -> None:
        """Closes the connections to receivers."""
        if self.caller is not None:
            await self.caller.close()


async def drop_when_accounts_change(bus: Bus, ahead: HoldsAhead) -> None:
    """Has holds that were taken ahead released when an account changes, or when the news of it may have been lost."""

    async def changed(_message: Msg) -> None:
        ahead.drop_all()

    await bus.subscribe(CTL_ACCOUNTS, changed)
    bus.on_reconnect(ahead.drop_all)


async def idle_loop(file: Path | None) -> bytes | None:
    """What is heard in rooms while nobody speaks; raises StartError."""
    if file is None:
        return None
    try:
        return await asyncio.to_thread(read_loop, file)
    except IdleLoopError as error:
        raise StartError(f"room_stream.idle_loop: {file}: {error}") from None


async def _drain(server: EdgeServer, replies: BusReplyRouter, timeout_s: float) -> None:
    """Waits for the open requests, then ends those that are left with an error that they can still send."""
    if not await server.wait_idle(timeout_s):
        log.warning("drain_over", extra={"open": replies.open_requests})
        replies.fail_all(STOPPED)
        await server.wait_idle(LAST_EVENT_S)
    # What is left of requests whose clients went away takes back their jobs and holds.
    await replies.wait_idle(LAST_EVENT_S)
