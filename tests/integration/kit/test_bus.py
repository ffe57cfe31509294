import asyncio

import pytest

from callboard_contracts.config import Config, NatsSection
from callboard_contracts.pools import ChatPoolSection, ChatSection
from callboard_kit.bus import ApiError, Bus, BusUnavailable, NoResponders, PublishRefused
from callboard_kit.provisioning import apply_streams
from callboard_kit.stream_reads import read_last, read_last_of_each, read_subject
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

QUEUE = "job.chat.main.live.tenant"
COUNTER = "q.used.tenant.tokens.h1"


async def test_streams_applied_twice_change_nothing_the_second_time(bus: Bus, config: Config) -> None:
    assert await apply_streams(bus, config) == []


async def test_streams_follow_a_changed_configuration(bus: Bus, config: Config) -> None:
    pool = ChatPoolSection(backend="fake", max_queued_per_tenant=9)
    changed = Config(nats=config.nats, chat=ChatSection(pools={"main": pool, "second": pool}))
    assert await apply_streams(bus, changed) == ["CHAT", "chat-second-live", "chat-second-batch"]
    info = await bus.api("STREAM.INFO.CHAT", {})
    assert info["config"]["max_msgs_per_subject"] == 9


async def test_publish_stored_counts_one_id_once(bus: Bus) -> None:
    increment = {"Nats-Incr": "+5"}
    first = await bus.publish_stored(COUNTER, b"", "one", headers=increment)
    again = await bus.publish_stored(COUNTER, b"", "one", headers=increment)
    other = await bus.publish_stored(COUNTER, b"", "two", headers={"Nats-Incr": "-2"})
    assert (first.value, first.duplicate) == (5, False)
    assert again.duplicate
    assert other.value == 3


async def test_publish_over_the_bound_of_one_tenant_is_refused_and_others_are_served(bus: Bus) -> None:
    for number in range(4):
        await bus.publish_stored(QUEUE, b"job", f"job{number}")
    with pytest.raises(PublishRefused) as caught:
        await bus.publish_stored(QUEUE, b"job", "job4")
    assert caught.value.err_code == 10077
    assert not (await bus.publish_stored("job.chat.main.live.other", b"job", "job5")).duplicate


async def test_publish_stored_survives_a_killed_server(bus: Bus, server: NatsServer) -> None:
    await asyncio.to_thread(server.kill)
    publishing = asyncio.ensure_future(bus.publish_stored(QUEUE, b"job", "one", timeout_s=15))
    await asyncio.sleep(0.5)
    assert not publishing.done()
    await asyncio.to_thread(server.start)
    stored = await publishing
    assert (await bus.api("STREAM.INFO.CHAT", {}))["state"]["messages"] == 1
    assert stored.stream == "CHAT"
    await bus.close()


async def test_publish_stored_gives_up_at_its_timeout(bus: Bus, server: NatsServer) -> None:
    await asyncio.to_thread(server.kill)
    with pytest.raises(BusUnavailable):
        await bus.publish_stored(QUEUE, b"job", "one", timeout_s=0.5)
    await bus.close()


async def test_request_without_a_listener_says_so(bus: Bus) -> None:
    with pytest.raises(NoResponders):
        await bus.request("ctl.interest.edge.none", b"", 1.0)


async def test_api_error_carries_the_servers_code(bus: Bus) -> None:
    with pytest.raises(ApiError) as caught:
        await bus.api("STREAM.INFO.NOWHERE", {})
    assert caught.value.code == 404


async def test_connect_to_nothing_ends_in_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard_kit.bus.CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(BusUnavailable, match=r"no bus at nats://127\.0\.0\.1:9"):
        await Bus.connect(NatsSection(url="nats://127.0.0.1:9"), "test", lambda: None)


async def test_subject_is_read_in_order_and_alone(bus: Bus) -> None:
    for number in range(300):
        await bus.publish("out.edge.one", b"%d" % number)
        await bus.publish("out.edge.two", b"x")
    await bus.connection.flush()
    async with asyncio.timeout(10):
        # The server captures core messages into a stream a moment after it has passed them on.
        while (await bus.api("STREAM.INFO.OUT", {}))["state"]["messages"] < 600:
            await asyncio.sleep(0.02)
    messages = await read_subject(bus, "OUT", "out.edge.one")
    assert [int(message.data) for message in messages] == list(range(300))
    rest = await read_subject(bus, "OUT", "out.edge.one", start_seq=messages[250].seq)
    assert [int(message.data) for message in rest] == list(range(250, 300))
    assert [message.subject for message in await read_subject(bus, "OUT", "out.*.two", limit=3)] == ["out.edge.two"] * 3


async def test_reading_what_is_not_there_is_empty(bus: Bus) -> None:
    assert await read_subject(bus, "OUT", "out.edge.none") == []
    assert await read_last(bus, "OUT", "out.edge.none") is None
    assert await read_last_of_each(bus, "OUT", ["out.edge.none"]) == []


async def test_reading_a_stream_that_is_gone_is_empty(bus: Bus) -> None:
    await bus.api("STREAM.DELETE.OUT", {})
    assert await read_subject(bus, "OUT", "out.edge.none", timeout_s=1.0) == []
    assert await read_last(bus, "OUT", "out.edge.none", timeout_s=1.0) is None


async def test_newest_of_each_subject_is_read_at_once(bus: Bus) -> None:
    for bucket, amounts in {"h1": (5, 7), "h2": (1,)}.items():
        for number, amount in enumerate(amounts):
            subject = f"q.used.tenant.tokens.{bucket}"
            await bus.publish_stored(subject, b"", f"{bucket}{number}", headers={"Nats-Incr": f"+{amount}"})
    found = await read_last_of_each(bus, "QUOTA", ["q.used.tenant.tokens.*"])
    assert {message.subject[-2:]: message.data for message in found} == {"h1": b'{"val":"12"}', "h2": b'{"val":"1"}'}
