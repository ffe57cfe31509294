"""What the bus makes of a connection's troubles."""

import asyncio
from pathlib import Path

import nats.errors
import pytest
from nats.aio.msg import Msg

from callboard_contracts.config import NatsSection
from callboard_kit import bus as bus_module
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.connection import Connection
from callboard_kit.store_sync import StoreSync

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


async def test_folder_that_is_no_store_is_told_before_anything_relies_on_it(tmp_path: Path) -> None:
    with pytest.raises(BusUnavailable, match=r"nats\.store_dir: .* is not the store of a nats-server"):
        await Bus.connect(NatsSection(url="nats://127.0.0.1:1", store_dir=tmp_path), "nobody", lambda: None)


async def test_what_is_published_counts_as_stored_once_it_is_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowDisk(StoreSync):
        def __init__(self) -> None:
            self.wanted: list[str] = []
            self.done = asyncio.Event()

        async def on_disk(self, *streams: str, within_s: float = 0.0) -> None:
            assert within_s == 0.25
            self.wanted += streams
            await self.done.wait()

    async def ask(*_arguments: object, **_named: object) -> Msg:
        return Msg(connection, "inbox", data=b'{"stream":"USAGE","seq":7}')

    connection, disk = Connection(), SlowDisk()
    monkeypatch.setattr(connection, "ask", ask)
    stored = asyncio.ensure_future(
        Bus(connection, disk).publish_stored("usage.someone", b"x", "id", sync_within_s=0.25)
    )
    await asyncio.sleep(0.01)
    assert (disk.wanted, stored.done()) == (["USAGE"], False)
    disk.done.set()
    assert (await stored).seq == 7


async def test_credentials_in_the_address_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "CONNECT_TIMEOUT_S", 0.5)
    url = "nats://ann:word@127.0.0.1:1,nats://ben:other@127.0.0.1:1"
    with pytest.raises(BusUnavailable) as caught:
        await Bus.connect(NatsSection(url=url), "nobody", lambda: None)
    text = str(caught.value)
    assert "127.0.0.1:1" in text
    assert not [word for word in ("ann", "word", "ben", "other") if word in text]
