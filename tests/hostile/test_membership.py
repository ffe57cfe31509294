"""Every protocol that the edge speaks is attacked, on each of its routes."""

from dataclasses import dataclass

import pytest

from callboard_edge.app import PROTOCOLS
from callboard_edge.http.transcription_bodies import FileForm
from tests.hostile.bodies import encode, examples, raw_bodies
from tests.hostile.targets import (
    SCHEMA_CARRIERS,
    UNTEMPLATED,
    all_targets,
    hearing_dialects,
    ordinary_dialects,
    own_dialects,
)
from tests.protocols.dialect import TextDialect
from tests.protocols.membership import routes
from tests.protocols.test_membership import SOCKETS
from tests.protocols.toy import Toy

pytestmark = pytest.mark.unit


def test_every_path_that_takes_a_body_has_bodies() -> None:
    targets = all_targets()
    assert {target.dialect.protocol.name for target in targets} == {protocol.name for protocol in PROTOCOLS} - SOCKETS
    assert {one.path for one in own_dialects()} <= {target.path for target in targets if target.ordinary}
    for target in targets:
        assert target.body is not None or target.method in {"GET", "DELETE"}, target


def test_every_dialect_that_can_ask_for_a_schema_does() -> None:
    can = {type(one) for one in own_dialects() if isinstance(one, TextDialect) and one.fields["output_format"]}
    carriers = {type(carrier.dialect) for carrier in SCHEMA_CARRIERS}
    assert can - set(UNTEMPLATED) == carriers


def test_every_protocol_that_takes_text_is_asked_by_the_neighbours() -> None:
    asked = {one.protocol.name for one in ordinary_dialects(speech=False)}
    assert asked == {one.protocol.name for one in own_dialects() if isinstance(one, TextDialect)}


def test_every_path_that_takes_a_file_is_sent_broken_forms_and_sounds() -> None:
    taking = {route.path for _protocol, route in routes(PROTOCOLS) if route.form is FileForm}
    assert taking == {one.path for one in hearing_dialects()}


def test_protocol_without_a_dialect_is_found() -> None:
    @dataclass(frozen=True, slots=True)
    class Stranger(Toy):
        name: str = "stranger"

    with pytest.raises(LookupError, match="stranger"):
        all_targets((Stranger(),))


def test_examples_are_the_same_for_the_same_seed() -> None:
    target = next(one for one in all_targets() if one.ordinary)
    first, second = (examples(raw_bodies(target), 20, 7) for _ in range(2))
    assert first == second
    assert len(set(first)) > 10
    assert encode(target.ordinary[0]).startswith(b"{")
