"""The accounts in a bucket of a real nats-server."""

import asyncio
from collections.abc import AsyncGenerator, Generator

import pytest

from callboard_admin.accounts import Accounts
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.streams import BUCKET_ACCOUNTS
from callboard_contracts.subjects import CTL_ACCOUNTS
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.backends.admin.suite import AccountSuite
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncGenerator[Bus]:
    config = Config(nats=NatsSection(url=server.url))
    bus = await Bus.connect(config.nats, "test", lambda: None)
    await apply_streams(bus, config)
    await bus.api(f"STREAM.PURGE.KV_{BUCKET_ACCOUNTS}", {})
    yield bus
    async with asyncio.timeout(10):
        await bus.close()


class TestBusBucket(AccountSuite):
    @pytest.fixture
    def bucket(self, bus: Bus) -> Bucket:
        return Bucket(bus, BUCKET_ACCOUNTS)

    @pytest.fixture
    def accounts(self, bus: Bus) -> Accounts:
        return Accounts.on(bus)


async def test_every_change_is_announced(bus: Bus) -> None:
    heard: list[str] = []
    await bus.subscribe_now(CTL_ACCOUNTS, lambda message: heard.append(message.data.decode()))
    accounts = Accounts.on(bus)
    account, _key = await accounts.create("ann", "standard", None)
    await accounts.change(account.id, "anonymous")
    await accounts.rotate(account.id, None, 0.0)
    await accounts.revoke(account.id, None)
    async with asyncio.timeout(20):
        while len(heard) < 4:
            await asyncio.sleep(0.01)
    assert heard == [account.id] * 4
