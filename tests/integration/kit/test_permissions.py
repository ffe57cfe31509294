"""What the users of a real server may not do; that they can do their work is what every set of processes proves."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from callboard_admin.accounts import Accounts
from callboard_admin.kudos_records import KudosRecords
from callboard_admin.room_records import RoomRecords
from callboard_admin.usage_records import UsageRecords
from callboard_cli.nats.users import write_users
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.errors import CallboardError
from callboard_contracts.kudos import KudosReply
from callboard_contracts.permissions import USERS, User, checked_streams, permissions
from callboard_contracts.pools import ChatPoolSection, ChatSection
from callboard_contracts.streams import BucketSpec, StreamSpec, buckets, stored_streams, streams
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

CONFIG = Config(chat=ChatSection(pools={"main": ChatPoolSection(backend="fake")}))
SERVICES: tuple[User, ...] = tuple(user for user in USERS if user != "operator")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator["Site"]:
    """A server with its users and streams."""
    one = Site(tmp_path_factory.mktemp("site"))
    try:
        one.server.start()
        asyncio.run(one.declare())
        yield one
    finally:
        one.server.kill()


class Site:
    """A server and the passwords of its users."""

    def __init__(self, folder: Path, *, admin_api: bool = False) -> None:
        *secrets, users = write_users(folder / "secrets", nkeys=False, admin_api=admin_api)
        self.passwords = {user: path.read_text() for user, path in zip(USERS, secrets, strict=True)}
        self.server = NatsServer(folder / "nats", settings=f'include "../secrets/server/{users.name}"')

    @asynccontextmanager
    async def user(self, name: User) -> AsyncGenerator[Bus]:
        section = NatsSection.model_validate(
            {"url": self.server.address, "user": name, "password": self.passwords[name]}
        )
        bus = await Bus.connect(section, name, lambda: None)
        try:
            yield bus
        finally:
            await bus.close()

    async def declare(self) -> None:
        async with self.user("operator") as bus:
            await apply_streams(bus, CONFIG)


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server refused, as the bus logs it."""
    errors = [record.exc_info for record in caplog.records if record.message == "bus_error"]
    return [str(error[1]) for error in errors if error]


FORBIDDEN: dict[str, tuple[User, str]] = {
    "a chat worker reads speech jobs": ("chat", "$JS.API.DIRECT.GET.TTS"),
    "a chat worker takes speech jobs": ("chat", "$JS.API.CONSUMER.MSG.NEXT.TTS.tts-main-live"),
    "a chat worker reads usage": ("chat", "$JS.API.DIRECT.GET.USAGE"),
    "a chat worker reads the ledger": ("chat", "$JS.API.DIRECT.GET.QUOTA"),
    "a chat worker reads keys of accounts": ("chat", "$JS.API.DIRECT.GET.KV_ACCOUNTS"),
    "a chat worker reads rooms": ("chat", "$JS.API.DIRECT.GET.KV_ROOMS"),
    "a chat worker lists kept replies": ("chat", "$JS.API.DIRECT.GET.RESULT"),
    "a chat worker reads the sound of rooms": ("chat", "$JS.API.DIRECT.GET.ROOM_AUDIO"),
    "a chat worker queues work": ("chat", "job.chat.main.live.someone"),
    "a chat worker mints kudos": ("chat", "quota.kudos.earn"),
    "a chat worker writes a balance": ("chat", "q.kudos.someone"),
    "a chat worker writes a counter": ("chat", "q.used.someone.units.h1"),
    "a chat worker writes an account": ("chat", "$KV.ACCOUNTS.account.someone"),
    "a chat worker purges": ("chat", "$JS.API.STREAM.PURGE.OUT"),
    "a chat worker deletes usage": ("chat", "$JS.API.STREAM.MSG.DELETE.USAGE"),
    "a chat worker deletes a stream": ("chat", "$JS.API.STREAM.DELETE.CHAT"),
    "a chat worker makes a consumer": ("chat", "$JS.API.CONSUMER.CREATE.USAGE.mine"),
    "a speech worker answers as an edge": ("tts", "_INBOX.edge.someone"),
    "a chat worker speaks": ("chat", "audio.edge.someone.0"),
    "a speech worker writes a reply": ("tts", "out.edge.someone"),
    "a speech worker reads chat jobs": ("tts", "$JS.API.STREAM.MSG.GET.CHAT"),
    "a speech worker mints kudos": ("tts", "quota.kudos.earn"),
    "a recogniser speaks": ("stt", "audio.edge.someone.0"),
    "a recogniser sends a sound": ("stt", "sound.edge.someone.0"),
    "a recogniser reads speech": ("stt", "$JS.API.DIRECT.GET.AUDIO"),
    "a chat worker reads sounds": ("chat", "$JS.API.DIRECT.GET.SOUND"),
    "an edge without the admin API mints kudos": ("edge", "quota.kudos.earn"),
    "an edge without the admin API reads accounts": ("edge", "$JS.API.DIRECT.GET.KV_ACCOUNTS"),
    "an edge without the admin API changes a character": ("edge", "characters.put"),
    "an edge writes a character": ("edge", "$KV.CHARACTERS.character.mira"),
    "a chat worker reads characters": ("chat", "$JS.API.DIRECT.GET.KV_CHARACTERS"),
    "an edge charges": ("edge", "usage.someone"),
    "an edge writes a reply": ("edge", "out.edge.someone"),
    "an edge takes jobs": ("edge", "$JS.API.CONSUMER.MSG.NEXT.CHAT.chat-main-live"),
    "an edge writes a room": ("edge", "$KV.ROOMS.someone"),
    "an edge purges": ("edge", "$JS.API.STREAM.PURGE.RESULT"),
    "rooms read replies as they are written": ("rooms", "$JS.API.DIRECT.GET.OUT"),
    "rooms read usage": ("rooms", "$JS.API.DIRECT.GET.USAGE"),
    "rooms take a hold": ("rooms", "quota.reserve"),
    "quota reads jobs": ("quota", "$JS.API.DIRECT.GET.CHAT"),
    "quota reads keys of payloads": ("quota", "$JS.API.STREAM.MSG.GET.KEYS"),
    "quota writes usage": ("quota", "usage.someone"),
    "quota reads rooms": ("quota", "$JS.API.DIRECT.GET.KV_ROOMS"),
}
OVERHEARD: dict[str, tuple[User, str]] = {
    "a chat worker hears everything": ("chat", ">"),
    "a chat worker hears replies": ("chat", "out.*.*"),
    "a chat worker hears answers to others": ("chat", "_INBOX.>"),
    "a chat worker hears of dead speech jobs": ("chat", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.TTS.*"),
    "a speech worker takes the requests of rooms": ("tts", "rooms.*"),
    "a speech worker hears jobs": ("tts", "job.>"),
    "an edge takes the requests to quota": ("edge", "quota.*"),
    "an edge hears answers to the operator": ("edge", "_INBOX.operator.>"),
    "an edge hears usage": ("edge", "usage.*"),
    "an edge hears the sounds of others": ("edge", "sound.>"),
    "rooms hear replies": ("rooms", "out.*.*"),
    "rooms hear the sound of requests": ("rooms", "audio.>"),
    "quota hears jobs": ("quota", "job.>"),
}


@pytest.mark.parametrize(("user", "subject"), FORBIDDEN.values(), ids=FORBIDDEN)
async def test_act_is_forbidden(site: Site, user: User, subject: str, caplog: pytest.LogCaptureFixture) -> None:
    async with site.user(user) as bus:
        await bus.publish(subject, b"{}", reply=bus.connection.new_inbox())
        # A refusal ends neither the connection nor what is allowed.
        await bus.clock.measure()
        assert refusals(caplog) == [f'nats: permissions violation for publish to "{subject.lower()}"']


@pytest.mark.parametrize(("user", "subject"), OVERHEARD.values(), ids=OVERHEARD)
async def test_subject_is_not_heard(site: Site, user: User, subject: str, caplog: pytest.LogCaptureFixture) -> None:
    async with site.user(user) as bus:
        await bus.subscribe_now(subject, lambda _message: None)
        await bus.clock.measure()
        assert refusals(caplog) == [f'nats: permissions violation for subscription to "{subject.lower()}"']


async def test_edge_with_the_admin_api_does_what_operators_ask_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path, admin_api=True)
    await asyncio.to_thread(site.server.start)
    try:
        await site.declare()
        async with site.user("edge") as bus, site.user("quota") as quota:

            async def answer(message: Msg) -> None:
                await message.respond(KudosReply(balance=7).model_dump_json().encode())

            await quota.subscribe("quota.kudos.*", answer)
            await quota.connection.flush()
            accounts, usage, kudos = Accounts.on(bus), UsageRecords(bus), KudosRecords(bus)
            account, key = await accounts.create("Ada", "standard", None)
            assert await accounts.find(key) == (account, account.keys[0])
            await accounts.revoke(account.id, None)
            assert len(await accounts.all()) == 1
            assert await usage.used(0, 1e9) == {}
            assert [batch async for batch in usage.events(0, 1e10)] == []
            with pytest.raises(CallboardError, match="nothing is known"):
                await usage.audit_trail("someone")
            assert await kudos.balance(account.id) == 7
            assert [change async for change in kudos.history(account.id)] == []
            assert await kudos.verify()
            assert await RoomRecords.on(bus).all() == []
    finally:
        await asyncio.to_thread(site.server.kill)
    assert refusals(caplog) == []


@pytest.mark.parametrize("named", ["in the settings", "in the address"])
async def test_answers_come_to_an_inbox_of_the_users_own(site: Site, named: str) -> None:
    async with site.user("quota") as quota, site.user("operator") as first:
        await quota.subscribe("quota.reserve", _answer)
        await quota.connection.flush()
        if named == "in the settings":
            assert await first.request("quota.reserve", b"", 20) == b"{}"
            return
        url = site.server.address.replace("//", f"//operator:{site.passwords['operator']}@")
        second = await Bus.connect(NatsSection(url=url), "test", lambda: None)
        assert await second.request("quota.reserve", b"", 20) == b"{}"
        await second.close()


async def _answer(message: Msg) -> None:
    await message.respond(b"{}")


@pytest.mark.parametrize("user", SERVICES)
def test_no_service_may_reach_everything(user: User) -> None:
    allowed = permissions(user)
    for subject in (*allowed.publish, *allowed.subscribe):
        assert not subject.startswith((">", "*", "$SYS", "_INBOX.>", "_INBOX.*"))
        assert subject not in {"$JS.>", "$JS.API.>", "$JS.ACK.>", "$KV.>"}
    for operation in ("STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "CONSUMER.CREATE", "CONSUMER.DELETE"):
        assert not any(f"$JS.API.{operation}" in subject for subject in allowed.publish)


def test_permissions_name_only_streams_that_there_are() -> None:
    declared: tuple[StreamSpec | BucketSpec, ...] = (*streams(CONFIG), *buckets())
    names = {spec.config(1)["name"] for spec in declared}
    for user in SERVICES:
        for subject in permissions(user, admin_api=True).publish:
            if subject.startswith("$JS.API."):
                words = subject.removeprefix("$JS.API.").split(".")
                at = 3 if words[1] == "MSG" else 2
                assert words[at] in names, subject


def test_admin_api_adds_to_the_edge_alone() -> None:
    assert "quota.kudos.earn" in permissions("edge", admin_api=True).publish
    assert all(permissions(user, admin_api=True) == permissions(user) for user in USERS if user != "edge")


def test_each_service_checks_the_disk_by_streams_that_it_may_delete_from() -> None:
    checking: tuple[User, ...] = ("edge", "rooms", "quota")
    checked: dict[User, tuple[str, ...]] = {user: checked_streams(user, stored_streams(CONFIG)) for user in checking}
    for user, names in checked.items():
        assert {f"$JS.API.STREAM.MSG.DELETE.{name}" for name in names} <= set(permissions(user).publish)
    together = {name for names in checked.values() for name in names}
    # What workers note down without waiting for it; and slots and webhooks, of which a caller is told what became of
    # each, and without which edges serve all else.
    assert set(stored_streams(CONFIG)) - together == {"PROGRESS", "DLQ", "SAVES", "WEBHOOKS"}
