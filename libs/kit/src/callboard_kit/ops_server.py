"""The operations server of every process: liveness, readiness and metrics."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from copy import copy

from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from callboard_kit.metrics import EVENT_LOOP_LAG

log = logging.getLogger(__name__)

Ready = Callable[[], str | None]
"""Returns None when the process can take work, else the reason why it cannot."""

LAG_INTERVAL_S = 0.5


async def healthz(_request: web.Request) -> web.Response:
    """Answers as long as the event loop turns; it depends on nothing else."""
    return web.json_response({"status": "ok"})


class _Labelled(Collector):
    """The process's metrics, each series with labels that are the same for the whole process."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)

    def collect(self) -> Iterator[Metric]:
        """Every metric of the process."""
        for metric in REGISTRY.collect():
            # Some collectors return the same object each time.
            labelled = copy(metric)
            labelled.samples = [each._replace(labels={**each.labels, **self._labels}) for each in metric.samples]
            yield labelled


def metrics(labels: Mapping[str, str]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Makes the handler of the process's metrics, in the text format that the scraper asks for.

    Only OpenMetrics can carry exemplars.
    """
    registry = CollectorRegistry()
    registry.register(_Labelled(labels))

    async def handler(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    return handler


def readyz(ready: Ready) -> Callable[[web.Request], "asyncio.Future[web.Response] | object"]:
    """Makes the handler that says whether the process can take work."""

    async def handler(_request: web.Request) -> web.Response:
        reason = ready()
        if reason is None:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready", "reason": reason}, status=503)

    return handler


class OpsServer:
    """Serves `/healthz`, `/readyz` and `/metrics` on a port of their own; port 0 takes a free one.

    Every series of the process has the `labels`.
    """

    def __init__(
        self, port: int, ready: Ready, host: str = "127.0.0.1", labels: Mapping[str, str] | None = None
    ) -> None:
        self._labels = labels or {}
        self._host = host
        self._wanted_port = port
        self._runner: web.AppRunner | None = None
        self._ready = ready
        self._lag: asyncio.Task[None] | None = None
        self.port = port

    async def start(self) -> None:
        """Begins to listen; raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/healthz", healthz)
        app.router.add_get("/readyz", readyz(self._ready))  # pyright: ignore[reportArgumentType]
        app.router.add_get("/metrics", metrics(self._labels))
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._wanted_port).start()
        self.port = int(self._runner.addresses[0][1])
        self._lag = asyncio.get_running_loop().create_task(_measure_lag(), name="event-loop-lag")

    async def close(self) -> None:
        """Stops listening."""
        if self._lag:
            self._lag.cancel()
            await asyncio.gather(self._lag, return_exceptions=True)
        if self._runner:
            await self._runner.cleanup()


async def _measure_lag() -> None:
    while True:
        due = time.monotonic() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        EVENT_LOOP_LAG.observe(max(0.0, time.monotonic() - due))
