"""The edge sees the records of volunteers as they are stored, over a real nats-server."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_admin.volunteer_records import VolunteerRecords
from callboard_contracts.config import Config
from callboard_contracts.streams import BUCKET_VOLUNTEERS
from callboard_contracts.volunteers import VolunteerRecord, volunteer_entry
from callboard_edge.backends.volunteer_watch import VolunteerWatch
from callboard_edge.domain.volunteers import Volunteers
from callboard_kit.bucket import Bucket, Conflict
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.backends.edge.watches import until, watching
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.backend

BARN = VolunteerRecord(id="w1", name="barn", account="k_ann", created_at=1.0, seen_at=1.0)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncGenerator[Bus]:
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    config = Config.model_validate({"nats": {"url": server.url}})
    bus = await Bus.connect(config.nats, "test", lambda: None)
    await apply_streams(bus, config)
    yield bus
    await bus.close()
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def volunteers(bus: Bus) -> AsyncGenerator[Volunteers]:
    """What an edge knows, whose watch runs."""
    found = Volunteers(None, lambda: 1.0)
    async with watching(VolunteerWatch(bus, found)):
        yield found


async def test_records_are_seen_as_they_are_written_and_removed(bus: Bus, volunteers: Volunteers) -> None:
    records = VolunteerRecords.on(bus)
    await records.change("w1", lambda record: record, BARN)
    await until(lambda: volunteers.get("w1") == BARN)
    paused = await records.change("w1", lambda record: record.model_copy(update={"paused": True}))
    await until(lambda: volunteers.get("w1") == paused)
    await records.remove("w1")
    await until(lambda: volunteers.get("w1") is None)
    assert await records.all() == []


async def test_refused_write_is_not_taken_for_a_record(bus: Bus, volunteers: Volunteers) -> None:
    records = VolunteerRecords.on(bus)
    await records.change("w1", lambda record: record, BARN)
    paused = await records.change("w1", lambda record: record.model_copy(update={"paused": True}))
    with pytest.raises(Conflict):
        await Bucket(bus, BUCKET_VOLUNTEERS).put(volunteer_entry("w1"), BARN.encoded(), 1, life_s=60)
    await records.change("w2", lambda record: record, BARN.model_copy(update={"id": "w2"}))
    await until(lambda: volunteers.get("w2") is not None)
    assert volunteers.get("w1") == paused
