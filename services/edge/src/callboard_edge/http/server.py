"""The HTTP side of the edge: from listening to the last answer."""

from collections.abc import Sequence

from aiohttp import web

from callboard_edge.http import docs, health, home_page
from callboard_edge.http.connections import GuardedServer
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.dispatcher import Dispatcher, ServedRoute
from callboard_edge.http.protocol import Protocol, SitePages

LAST_EVENT_S = 2.0
"""How long streams have to write their last error event once the drain is over."""


class EdgeServer:
    """Listens, and serves every route of the protocols."""

    def __init__(self, context: EdgeContext, protocols: Sequence[Protocol]) -> None:
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
