"""Every protocol that the edge speaks has joined the suites, with each path that takes work."""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import tests.protocols
from callboard_contracts.config import Config
from callboard_contracts.errors import ErrorCode
from callboard_edge.app import PROTOCOLS, edge_context
from callboard_edge.backends.fake import FakeJobQueue, FakeQuotaClient, FakeReplyRouter, FakeResultStore
from callboard_edge.domain.background_tasks import BackgroundTasks
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.workers import Workers
from callboard_edge.http.protocol import Protocol
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.metrics import EdgeMetrics
from tests.protocols.dialect import MALFORMED_KINDS, NEUTRAL_FIELDS, Dialect, TextDialect
from tests.protocols.suite import ErrorSuite, RequestSuite
from tests.protocols.toy import Toy

pytestmark = pytest.mark.unit


def dialects(suite: type[Any]) -> Iterator[Dialect]:
    """The dialects of everything that subclasses a suite."""
    for module in pkgutil.iter_modules(tests.protocols.__path__, "tests.protocols."):
        importlib.import_module(module.name)
    for subclass in suite.__subclasses__():
        if "dialect" in vars(subclass):
            yield subclass.dialect
        yield from dialects(subclass)


def missing(protocols: Sequence[Protocol]) -> set[str]:
    """What has not joined: protocols by their name, and paths that take a request from the holder of a key."""
    replies = FakeReplyRouter()
    deps = Dependencies(FakeQuotaClient(), FakeJobQueue(1), replies, BackgroundTasks())
    metrics, encoders = EdgeMetrics(CollectorRegistry()), EncoderPool()
    context = edge_context(Config(), deps, FakeResultStore(replies), Workers(), encoders, metrics, lambda: None)
    encoders.close()
    asked = list(dialects(RequestSuite))
    joined = {one.protocol.name for one in asked} & {one.protocol.name for one in dialects(ErrorSuite)}
    routes = [route for protocol in protocols for route in protocol.routes(context)]
    work = {route.path for route in routes if route.method == "POST" and route.security == "key"}
    return {protocol.name for protocol in protocols} - joined | work - {one.path for one in asked}


def test_every_protocol_has_joined() -> None:
    assert missing((*PROTOCOLS, Toy())) == set()


def test_protocol_that_has_not_joined_is_found() -> None:
    @dataclass(frozen=True, slots=True)
    class Stranger(Toy):
        name: str = "stranger"

    assert missing((Stranger(),)) == {"stranger"}


@pytest.mark.parametrize("dialect", list(dialects(RequestSuite)), ids=lambda one: type(one).__name__)
def test_dialect_says_all_that_the_suites_need(dialect: Dialect) -> None:
    assert set(dialect.errors) == set(ErrorCode)
    assert set(dialect.malformed()) >= MALFORMED_KINDS
    if isinstance(dialect, TextDialect):
        assert set(dialect.fields) == set(NEUTRAL_FIELDS)
