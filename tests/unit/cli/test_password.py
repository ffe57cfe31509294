"""The password of a site that serves one model."""

import time

import pytest

from callboard_admin.accounts import Accounts
from callboard_cli.up.password import accept_password
from callboard_contracts.accounts import key_digest, key_entry
from callboard_contracts.errors import CallboardError
from callboard_kit.fake_bucket import FakeBucket

pytestmark = pytest.mark.unit


async def test_a_password_is_one_key_of_one_account_and_the_newest_counts() -> None:
    announced: list[str] = []

    async def announce(account_id: str) -> None:
        announced.append(account_id)

    bucket = FakeBucket()
    accounts = Accounts(bucket, announce)
    for password in ("sesame", "sesame", "open sesame", "sesame"):
        await accept_password(accounts, password, "standard")
        (account,) = await accounts.all()
        assert [key.digest for key in account.keys if key.valid_at(time.time())] == [key_digest(password)]
        entry = await bucket.get(key_entry(key_digest(password)))
        assert entry is not None
        assert entry.value == account.id.encode()
    assert len(announced) == 3
    assert account.tier == "standard"
    _ann, key = await accounts.create("ann", "standard", None)
    with pytest.raises(CallboardError, match="belongs to another account"):
        await accept_password(accounts, key, "standard")
    with pytest.raises(CallboardError, match="belongs to another account"):
        await accounts.create("bob", "standard", None, key=key)
