"""Every protocol that the edge speaks has joined the suites, with each path that takes work."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from callboard_contracts.errors import ErrorCode
from callboard_edge.app import PROTOCOLS
from callboard_edge.http.protocol import Protocol
from tests.protocols.dialect import MALFORMED_KINDS, NEUTRAL_FIELDS, Dialect, TextDialect
from tests.protocols.membership import dialects, routes
from tests.protocols.suite import ErrorSuite, RequestSuite
from tests.protocols.toy import Toy

pytestmark = pytest.mark.unit


def missing(protocols: Sequence[Protocol]) -> set[str]:
    """What has not joined: protocols by their name, and paths that take a request from the holder of a key."""
    asked = list(dialects(RequestSuite))
    joined = {one.protocol.name for one in asked} & {one.protocol.name for one in dialects(ErrorSuite)}
    posts = [route for _protocol, route in routes(protocols) if route.method == "POST"]
    paths = {one.path for one in asked}
    # One handler may serve several paths under one name.
    names = {route.name for route in posts if route.path in paths}
    work = {route.path for route in posts if route.security == "key" and route.name not in names}
    return {protocol.name for protocol in protocols} - joined | work


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
