"""What the bus makes of a connection's troubles."""

import nats.errors
import pytest

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
