"""The composition root: the one place where the edge's parts are put together."""

import argparse
import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from aiohttp import web

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
from callboard_edge.backends.worker_watch import WorkerWatch
from callboard_edge.domain.administration import Administration
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import (
    chat_catalogue,
    embedding_catalogue,
    recognition_catalogue,
    speech_catalogue,
)
from callboard_edge.domain.character_admission import CharacterAdmission
from callboard_edge.domain.characters import Characters
from callboard_edge.domain.dialogues import Dialogues
from callboard_edge.domain.job_groups import JobGroups
from callboard_edge.domain.kept_jobs import KeptJobs
from callboard_edge.domain.offers import Offer, Offers
from callboard_edge.domain.ports import ResultStore
from callboard_edge.domain.room_turns import RoomTurns
from callboard_edge.domain.running_replies import FollowedReplies
from callboard_edge.domain.saved_slots import SavedSlots
from callboard_edge.domain.spirit_box import Sounds, SpiritBox
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.uptime_rewards import UptimeRewards
from callboard_edge.domain.volunteer_jobs import VolunteerJobs, VolunteerWorkers
from callboard_edge.domain.volunteer_models import VolunteerCatalogue, volunteer_pools
from callboard_edge.domain.volunteers import Volunteers
from callboard_edge.domain.workers import Workers
from callboard_edge.http import docs, health, home_page
from callboard_edge.http.connections import GuardedServer
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.dispatcher import Dispatcher, ServedRoute
from callboard_edge.http.embedding_responder import EmbeddingResponder
from callboard_edge.http.live_sessions import LiveSessions
from callboard_edge.http.narrated_responder import NarratedResponder
from callboard_edge.http.protocol import Protocol, SitePages
from callboard_edge.http.room_recording import RoomRecordingResponder
from callboard_edge.http.room_stream import RoomStreamResponder
from callboard_edge.http.speech_responder import SpeechResponder
from callboard_edge.http.text_responder import TextResponder
from callboard_edge.http.transcription_responder import TranscriptionResponder
from callboard_edge.media import spirit_sounds
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
from callboard_edge.settings import edge_settings
from callboard_kit import library_output
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown, StartError, TaskSupervisor, freeze_gc
from callboard_kit.memory_limit import give_memory_back
from callboard_kit.payload_cipher import erase_keys
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
LAST_EVENT_S = 2.0
"""How long streams have to write their last error event once the drain is over."""
STOPPED = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The server is shutting down; try again.", retry_after_s=1.0)


class EdgeServer:
    """The HTTP side of the edge: from listening to the last answer."""

    def __init__(self, context: EdgeContext, protocols: Sequence[Protocol] = PROTOCOLS) -> None:
        self._settings = context.settings
        self._spirit_box = context.spirit_box
        site = SitePages(lambda context: [*health.routes(context), *home_page.routes()])
        served = [ServedRoute(route, protocol) for protocol in (*protocols, site) for route in protocol.routes(context)]
        pages = docs.routes([one.route for one in served])
        served += [ServedRoute(route, site) for route in pages]
        self._dispatcher = Dispatcher(context, served, (*protocols, site))
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self, host: str, port: int) -> int:
        """Begins to listen and returns the port; port 0 takes a free one.

        Raises:
            OSError: the port is taken.
        """
        server = GuardedServer(
            self._dispatcher,
            headers_timeout_s=self._settings.body_timeout_s,
            max_connections=self._settings.max_connections,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=LAST_EVENT_S)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, backlog=1024)
        await self._site.start()
        return int(self._runner.addresses[0][1])

    async def stop_listening(self) -> None:
        """Takes no new connections; open ones are served to their end, but for the spirit box's, which have none."""
        self._dispatcher.closing = True
        if self._spirit_box is not None:
            self._spirit_box.close()
        if self._site is not None:
            await self._site.stop()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Returns true when no request is being answered, or false after the timeout."""
        return await self._dispatcher.wait_idle(timeout_s)

    async def close(self) -> None:
        """Ends what is still open."""
        if self._spirit_box is not None:
            self._spirit_box.close()
        if self._runner is not None:
            await self._runner.cleanup()


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
    uptime_rewards = UptimeRewards(config.kudos, quota, background)
    volunteers = Volunteers(
        BusVolunteerStore(bus), bus.clock.now, config.horde.workers_per_account, uptime_rewards.seen
    )
    watches = WorkerWatch(bus, workers), CharacterWatch(bus, characters), VolunteerWatch(bus, volunteers)
    deps = Dependencies(
        quota=quota,
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
        running=running,
        characters=characters,
        saved_slots=slots,
        volunteers=volunteers,
        volunteer_workers=BusVolunteerWorkers(bus),
    )
    server = EdgeServer(context, protocols)
    library_output.hide()
    try:
        await replies.start()
        for watch in watches:
            await watch.start()
        await others.start(running.answer)
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
            supervisor.start(volunteers.run(), "volunteers")
            supervisor.start(streams.run(), "room-streams")
            supervisor.start(erase_keys(bus, key_life_s(config)), "key-erasure")
            freeze_gc()
            log.info("listening", extra={"port": port, "metrics_port": ops.port, "edge": edge_id})
            await shutdown.wait()
            await server.stop_listening()
            streams.close()
            context.live_sessions.stopping.set()
            await _drain(server, replies, config.edge.drain_timeout_s)
            await volunteers.flush()
    finally:
        await server.close()
        encoders.close()
        await background.close(BACKGROUND_TIMEOUT_S)
        await replies.close()
        for watch in watches:
            await watch.close()
        await others.close()


async def idle_loop(file: Path | None) -> bytes | None:
    """What is heard in rooms while nobody speaks; raises StartError."""
    if file is None:
        return None
    try:
        return await asyncio.to_thread(read_loop, file)
    except IdleLoopError as error:
        raise StartError(f"room_stream.idle_loop: {file}: {error}") from None


def edge_context(
    config: Config,
    deps: Dependencies,
    results: ResultStore,
    workers: Workers,
    encoders: EncoderPool,
    streams: RoomStreams,
    metrics: EdgeMetrics,
    ready: Callable[[], str | None],
    admin: Administration | None = None,
    *,
    running: FollowedReplies | None = None,
    characters: Characters | None = None,
    saved_slots: SavedSlots | None = None,
    volunteers: Volunteers | None = None,
    volunteer_workers: VolunteerWorkers | None = None,
) -> EdgeContext:
    """Puts together what the protocols are given; `running` is made where this edge is the only one.

    Without `volunteers` and the `volunteer_workers` that hold their jobs the site takes none.
    """
    settings = edge_settings(config, deps.jobs.max_request_bytes)
    characters = Characters() if characters is None else characters
    kept = KeptJobs(deps, results)
    parts = deps, workers, kept, config.edge.request_timeout_s, config.chat.hold_slice_tokens
    room_turns = RoomTurns(Admission(*parts), config.tts.hold_slice_ms)
    admission = CharacterAdmission(*parts, turns=room_turns, count=metrics.character_request)
    pools = volunteer_pools(config.chat)
    offer = Offer(
        VolunteerCatalogue(chat_catalogue(config.chat), config.chat, workers),
        speech_catalogue(config.tts, characters),
        embedding_catalogue(config.chat),
        recognition_catalogue(config.stt),
    )

    async def tier_of(caller: Caller) -> str:
        # Where quota is away and the site admits all, a caller counts as one without a key.
        return (await admission.identify(caller)).tier or config.quota.anonymous_tier

    text = TextResponder(admission, workers, metrics)
    offers = Offers(offer, config.quota.tiers, tier_of, characters, workers)
    return EdgeContext(
        settings=settings,
        chat_models=offer.chat_models,
        embedding_models=offer.embedding_models,
        speech_models=offer.speech_models,
        recognition_models=offer.recognition_models,
        offers=offers,
        characters=characters,
        workers=workers,
        admission=admission,
        text=text,
        embeddings=EmbeddingResponder(admission, workers),
        speech=SpeechResponder(admission, encoders, metrics, settings),
        narrated=NarratedResponder(text, admission, encoders, metrics, settings),
        transcriptions=TranscriptionResponder(admission, workers, metrics, config.stt),
        live_sessions=LiveSessions(config.realtime, metrics),
        rooms=deps.rooms,
        room_reader=deps.room_reader,
        inquiry=deps.inquiry,
        room_turns=room_turns,
        room_streams=RoomStreamResponder(streams, deps.room_reader, config.room_stream, metrics),
        room_recordings=RoomRecordingResponder(streams.source, deps.room_reader, encoders, config),
        metrics=metrics,
        running=running or FollowedReplies(),
        dialogues=Dialogues(results, deps.background, deps.jobs.max_request_bytes, deps.now),
        groups=JobGroups(kept, results, deps.background),
        ready=ready,
        admin=admin,
        saved_slots=saved_slots,
        spirit_box=spirit_box(config, admission, offers, workers, encoders, metrics),
        volunteers=volunteers or Volunteers(None, deps.now),
        volunteer_jobs=None
        if volunteer_workers is None or not pools
        else VolunteerJobs(volunteer_workers, workers, pools, lambda: ready() is not None),
    )


def spirit_box(
    config: Config,
    admission: Admission,
    offers: Offers,
    workers: Workers,
    encoders: EncoderPool,
    metrics: EdgeMetrics,
) -> SpiritBox | None:
    """The site's spirit box, or None where it has none."""
    if not config.spirit_box.enabled:
        return None

    async def encoded(pcm: bytes) -> bytes:
        async with encoders.session("mp3") as session:
            return await session.feed(pcm) + await session.finish()

    sounds = Sounds(encoded, spirit_sounds.refusal(), spirit_sounds.silence())
    figures = metrics.spirit_box
    box = SpiritBox(config.spirit_box, config.stt, config.tts, admission, offers, workers, sounds, figures)
    figures.visitors.set_function(lambda: box.visitors)
    return box


async def _drain(server: EdgeServer, replies: BusReplyRouter, timeout_s: float) -> None:
    """Waits for the open requests, then ends those that are left with an error that they can still send."""
    if not await server.wait_idle(timeout_s):
        log.warning("drain_over", extra={"open": replies.open_requests})
        replies.fail_all(STOPPED)
        await server.wait_idle(LAST_EVENT_S)
    # What is left of requests whose clients went away takes back their jobs and holds.
    await replies.wait_idle(LAST_EVENT_S)
