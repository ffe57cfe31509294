"""The metrics of prometheus-nats-exporter that our dashboards query, from a real server's monitoring pages.

The exporter itself comes in no package that tests may install. This stand-in serves the same names, which were read
from the exporter's source, so it shows that the queries fit the numbers.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.support.nats_server import NatsServer
from tests.support.threaded_app import ThreadedApp

VARZ = ("connections", "slow_consumers", "in_msgs", "out_msgs", "in_bytes", "out_bytes", "mem", "cpu")
STREAM = {
    "total_messages": "messages",
    "total_bytes": "bytes",
    "first_seq": "first_seq",
    "last_seq": "last_seq",
}
Labels = dict[str, str]


class BusExporter:
    """Serves `/metrics` from a thread of the test process."""

    def __init__(self, nats: NatsServer) -> None:
        self._nats = nats
        self._server = ThreadedApp(self._app)

    def start(self) -> str:
        """Starts serving and returns the address as a target for Prometheus."""
        self._server.start()
        return f"127.0.0.1:{self._server.port}"

    def close(self) -> None:
        """Stops the server."""
        self._server.close()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _metrics(self, _request: web.Request) -> web.Response:
        lines = await asyncio.to_thread(lambda: list(self._lines()))
        return web.Response(text="\n".join(lines) + "\n")

    def _lines(self) -> Iterator[str]:
        varz: Any = self._nats.monitor("varz")
        jsz: Any = self._nats.monitor("jsz?consumers=true&config=true&raft=true")
        for name in VARZ:
            yield _line(f"gnatsd_varz_{name}", {"server_id": varz["server_id"]}, varz[name])
        server = {"server_id": varz["server_id"], "server_name": varz["server_name"], "is_meta_leader": "true"}
        for name, value in (
            ("total_streams", jsz["streams"]),
            ("total_consumers", jsz["consumers"]),
            ("total_messages", jsz["messages"]),
            ("total_message_bytes", jsz["bytes"]),
            ("max_storage", jsz["config"]["max_storage"]),
        ):
            yield _line(f"jetstream_server_{name}", server, value)
        for account in jsz["account_details"]:
            for stream in account["stream_detail"]:
                labels = {**server, "stream_name": stream["name"], "is_stream_leader": "true"}
                yield from _stream(stream, labels)
                for consumer in stream.get("consumer_detail", []):
                    named = {"consumer_name": consumer["name"], "is_consumer_leader": "true"}
                    yield from _consumer(consumer, labels | named)


def _stream(stream: Any, labels: Labels) -> Iterator[str]:
    for name, field in STREAM.items():
        yield _line(f"jetstream_stream_{name}", labels, stream["state"][field])
    yield _line("jetstream_stream_limit_bytes", labels, stream["config"]["max_bytes"])
    yield _line("jetstream_stream_limit_messages", labels, stream["config"]["max_msgs"])


def _consumer(consumer: Any, labels: Labels) -> Iterator[str]:
    for name in ("num_ack_pending", "num_redelivered", "num_waiting", "num_pending"):
        yield _line(f"jetstream_consumer_{name}", labels, consumer[name])
    for name in ("delivered", "ack_floor"):
        yield _line(f"jetstream_consumer_{name}_consumer_seq", labels, consumer[name]["consumer_seq"])
        yield _line(f"jetstream_consumer_{name}_stream_seq", labels, consumer[name]["stream_seq"])


def _line(name: str, labels: Labels, value: float) -> str:
    written = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{written}}} {value}"
