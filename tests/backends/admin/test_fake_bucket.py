"""The accounts in memory."""

import asyncio

import pytest

from callboard_admin.accounts import Accounts
from callboard_kit.fake_bucket import FakeBucket
from tests.backends.admin.suite import AccountSuite

pytestmark = pytest.mark.backend


class TestFakeBucket(AccountSuite):
    @pytest.fixture
    def bucket(self) -> FakeBucket:
        return FakeBucket()

    @pytest.fixture
    def accounts(self, bucket: FakeBucket) -> Accounts:
        async def announce(_account_id: str) -> None:
            await asyncio.sleep(0)

        return Accounts(bucket, announce)
