"""Which dialects there are, and the routes of the protocols that they ask."""

import importlib
import pkgutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

import tests.protocols
from callboard_contracts.config import Config
from callboard_edge.backends.fake_job_queue import FakeJobQueue
from callboard_edge.backends.fake_model_inquiry import FakeModelInquiry
from callboard_edge.backends.fake_quota_client import FakeQuotaClient
from callboard_edge.backends.fake_reply_router import FakeReplyRouter
from callboard_edge.backends.fake_result_store import FakeResultStore
from callboard_edge.backends.fake_room_audio import FakeRoomAudio
from callboard_edge.backends.fake_rooms import FakeRooms
from callboard_edge.composition import edge_context
from callboard_edge.domain.administration import Administration
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.workers import Workers
from callboard_edge.http.protocol import Protocol
from callboard_edge.http.route import Route
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.media.room_streams import RoomStreams
from callboard_edge.metrics import EdgeMetrics
from callboard_kit.background_tasks import BackgroundTasks
from tests.protocols.dialect import Dialect


def dialects(suite: type[Any]) -> Iterator[Dialect]:
    """The dialects of everything that subclasses a suite."""
    for module in pkgutil.iter_modules(tests.protocols.__path__, "tests.protocols."):
        importlib.import_module(module.name)
    yield from _below(suite)


def _below(suite: type[Any]) -> Iterator[Dialect]:
    for subclass in suite.__subclasses__():
        if "dialect" in vars(subclass):
            yield subclass.dialect
        yield from _below(subclass)


def routes(protocols: Sequence[Protocol], admin: Administration | None = None) -> list[tuple[Protocol, Route]]:
    """Every route of some protocols."""
    replies = FakeReplyRouter()
    rooms = FakeRooms()
    config, background = Config(), BackgroundTasks()
    deps = Dependencies(FakeQuotaClient(), FakeJobQueue(1), replies, background, rooms, rooms, FakeModelInquiry())
    metrics, encoders = EdgeMetrics(CollectorRegistry()), EncoderPool()
    streams = RoomStreams(FakeRoomAudio(), background, config.room_stream, metrics, time.time)
    results = FakeResultStore(replies)
    context = edge_context(config, deps, results, Workers(), encoders, streams, metrics, lambda: None, admin)
    encoders.close()
    return [(protocol, route) for protocol in protocols for route in protocol.routes(context)]
