"""What the bus makes of a connection's troubles."""

import nats.errors
import pytest

from callboard_contracts.config import NatsSection
from callboard_kit import bus as bus_module
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.connection import Connection

pytestmark = pytest.mark.unit


@pytest.fixture
def deserted(monkeypatch: pytest.MonkeyPatch) -> Bus:
    """A bus on which nobody listens."""

    async def ask(*_arguments: object, **_named: object) -> None:
        raise nats.errors.NoRespondersError

    connection = Connection()
    monkeypatch.setattr(connection, "ask", ask)
    return Bus(connection)


async def test_server_without_streams_is_told_from_a_service_that_is_missing(deserted: Bus) -> None:
    with pytest.raises(NoResponders):
        await deserted.request("quota.verify", b"", 1.0)
    with pytest.raises(BusUnavailable, match="no server keeps streams"):
        await deserted.api("INFO", {})


async def test_credentials_in_the_address_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "CONNECT_TIMEOUT_S", 0.5)
    url = "nats://ann:word@127.0.0.1:1,nats://ben:other@127.0.0.1:1"
    with pytest.raises(BusUnavailable) as caught:
        await Bus.connect(NatsSection(url=url), "nobody", lambda: None)
    text = str(caught.value)
    assert "127.0.0.1:1" in text
    assert not [word for word in ("ann", "word", "ben", "other") if word in text]
