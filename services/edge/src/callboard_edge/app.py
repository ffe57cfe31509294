"""The composition root: the one place where the edge's parts are put together."""

import argparse
import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from aiohttp import web

from callboard_contracts.accounts import KEY_PREFIX
from callboard_contracts.config import Config, QuotaSection
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_edge.backends.job_queue import BusJobQueue
from callboard_edge.backends.quota_client import BusQuotaClient
from callboard_edge.backends.reply_router import BusReplyRouter
from callboard_edge.domain.administration import Administration
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.background_tasks import BackgroundTasks
from callboard_edge.domain.catalogue import chat_catalogue, speech_catalogue
from callboard_edge.domain.job_stream import Dependencies
from callboard_edge.http import docs, health
from callboard_edge.http.connections import GuardedServer
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.dispatcher import Dispatcher
from callboard_edge.http.route import Route
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.protocols.admin import routes as admin
from callboard_edge.protocols.admin.auth import token_digest
from callboard_edge.protocols.openai import chat, completions, models, speech, usage, voices
from callboard_edge.settings import edge_settings
from callboard_kit.accounts import Accounts
from callboard_kit.bus import Bus
from callboard_kit.kudos_records import KudosRecords
from callboard_kit.lifecycle import Shutdown, StartError, freeze_gc
from callboard_kit.resources import bus_connection, ops_server
from callboard_kit.settings import SettingsError, load_config
from callboard_kit.usage_records import UsageRecords

log = logging.getLogger(__name__)

HANDLERS = (chat, completions, models, speech, voices, usage, admin, health)
"""The modules whose `routes(context)` the edge serves; the API document is made from all of them."""

BACKGROUND_TIMEOUT_S = 3.0
LAST_EVENT_S = 2.0
"""How long streams have to write their last error event once the drain is over."""
STOPPED = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The server is shutting down; try again.", retry_after_s=1.0)


def all_routes(context: EdgeContext) -> list[Route]:
    """Every route that the edge serves."""
    routes = [route for module in HANDLERS for route in module.routes(context)]
    return routes + docs.routes(routes)


class EdgeServer:
    """The HTTP side of the edge: from listening to the last answer."""

    def __init__(self, context: EdgeContext, routes: Sequence[Route]) -> None:
        self._settings = context.settings
        self._gate = Dispatcher(routes, context.settings, context.metrics)
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self, host: str, port: int) -> int:
        """Begins to listen and returns the port; port 0 takes a free one.

        Raises:
            OSError: the port is taken.
        """
        server = GuardedServer(
            self._gate,
            headers_timeout_s=self._settings.body_timeout_s,
            max_body_bytes=self._settings.max_body_bytes,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=LAST_EVENT_S)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, backlog=1024)
        await self._site.start()
        return int(self._runner.addresses[0][1])

    async def stop_listening(self) -> None:
        """Takes no new connections; open ones are served to their end."""
        self._gate.closing = True
        if self._site is not None:
            await self._site.stop()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Returns true when no request is being answered, or false after the timeout."""
        return await self._gate.wait_idle(timeout_s)

    async def close(self) -> None:
        """Ends what is still open."""
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

    return Administration(token_digest(token), Accounts.on(bus), UsageRecords(bus), KudosRecords(bus), quota)


async def serve(config: Config, shutdown: Shutdown, arguments: argparse.Namespace) -> None:
    """Runs the edge until the shutdown says so, then drains it.

    Raises:
        StartError: the bus cannot be reached, or a port is taken.
    """
    edge_id = uuid4().hex[:12]
    async with bus_connection(config.nats, f"edge-{edge_id}", shutdown) as bus:
        await _serve(config, shutdown, bus, edge_id, administration(config, bus, arguments.config))


async def _serve(config: Config, shutdown: Shutdown, bus: Bus, edge_id: str, admin: Administration | None) -> None:
    metrics = EdgeMetrics()
    frames = BusReplyRouter(bus, edge_id, metrics.dropped_messages.inc, metrics.replays.inc)
    background = BackgroundTasks()
    media = EncoderPool()
    deps = Dependencies(
        quota=BusQuotaClient(
            bus,
            background,
            config.quota.decision_timeout_s,
            config.quota.on_unreachable,
            metrics.admitted_without_quota.inc,
            require_key=config.quota.require_key,
        ),
        jobs=BusJobQueue(bus),
        replies=frames,
        background=background,
    )

    def ready() -> str | None:
        if shutdown.stopping:
            return "stopping"
        return None if bus.connected else "the bus is not connected"

    context = EdgeContext(
        settings=edge_settings(config),
        chat_models=chat_catalogue(config.chat),
        speech_models=speech_catalogue(config.tts),
        admission=Admission(deps, config.edge.request_timeout_s),
        media=media,
        metrics=metrics,
        ready=ready,
        admin=admin,
    )
    server = EdgeServer(context, all_routes(context))
    try:
        await frames.start()
        try:
            port = await server.start(config.edge.host, config.edge.port)
        except OSError as error:
            raise StartError(f"edge.port: {config.edge.port}: {error.strerror}") from None
        metrics_port, host = config.edge.metrics_port, config.site.metrics_host
        async with ops_server("edge.metrics_port", metrics_port, ready, host) as ops:
            freeze_gc()
            log.info("listening", extra={"port": port, "metrics_port": ops.port, "edge": edge_id})
            await shutdown.wait()
            await server.stop_listening()
            await _drain(server, frames, config.edge.drain_timeout_s)
    finally:
        await server.close()
        media.close()
        await background.close(BACKGROUND_TIMEOUT_S)
        await frames.close()


async def _drain(server: EdgeServer, frames: BusReplyRouter, timeout_s: float) -> None:
    """Waits for the open requests, then ends those that are left with an error that they can still send."""
    if not await server.wait_idle(timeout_s):
        log.warning("drain_over", extra={"open": frames.open_requests})
        frames.fail_all(STOPPED)
        await server.wait_idle(LAST_EVENT_S)
    # What is left of requests whose clients went away takes back their jobs and holds.
    await frames.wait_idle(LAST_EVENT_S)
