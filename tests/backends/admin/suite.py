"""What every bucket must do that stores accounts, alone and under `Accounts`."""

import time

import pytest

from callboard_admin.accounts import AccountBucket, Accounts
from callboard_contracts.accounts import key_digest, key_entry
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_kit.bucket import Conflict


class AccountSuite:
    """A subclass supplies the fixtures `bucket`, an empty bucket, and `accounts`, which are stored in it."""

    async def test_account_is_found_by_its_id_its_name_and_its_key(
        self, bucket: AccountBucket, accounts: Accounts
    ) -> None:
        account, key = await accounts.create("ann", "standard", None, {"jobs_at_once": 3})
        digest = key_digest(key)
        for text in (account.id, "ann"):
            assert await accounts.find(text) == (account, None)
        for text in (key, digest, digest[:8]):
            assert await accounts.find(text) == (account, account.keys[0])
        named = await bucket.get(key_entry(digest))
        assert named is not None
        assert named.value == account.id.encode()
        assert account.limits.jobs_at_once == 3

    async def test_accounts_come_in_the_order_of_their_making(self, accounts: Accounts) -> None:
        made = [(await accounts.create(f"n{n}", "standard", None))[0] for n in range(5)]
        assert await accounts.all() == made

    async def test_entry_is_made_once_and_changed_only_as_it_was_read(self, bucket: AccountBucket) -> None:
        first = await bucket.put("account.x", b"1", 0)
        with pytest.raises(Conflict):
            await bucket.put("account.x", b"2", 0)
        second = await bucket.put("account.x", b"2", first)
        with pytest.raises(Conflict):
            await bucket.put("account.x", b"3", first)
        assert second > first
        entry = await bucket.get("account.x")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"2", second)
        assert await bucket.get("account.y") is None

    async def test_list_has_the_newest_of_what_matches(self, bucket: AccountBucket) -> None:
        revision = await bucket.put("account.x", b"1", 0)
        await bucket.put("account.x", b"2", revision)
        await bucket.put("key.x", b"3", 0)
        assert [entry.value for entry in await bucket.list("account.*", 10)] == [b"2"]

    async def test_rotated_and_revoked_keys_end(self, accounts: Accounts) -> None:
        account, old = await accounts.create("ann", "standard", None)
        now = time.time()
        _account, new = await accounts.rotate(account.id, None, now + 60)
        changed, _key = await accounts.find(account.id)
        assert [key.expires_at for key in changed.keys] == [pytest.approx(now + 60), None]
        _changed, key = await accounts.find(new)
        assert key is not None
        changed = await accounts.revoke(account.id, key.digest)
        assert [one.valid_at(now) for one in changed.keys] == [True, False]
        changed = await accounts.revoke(account.id, None)
        assert not any(one.valid_at(now) for one in changed.keys)
        assert (await accounts.find(old))[0] == changed

    async def test_account_that_is_not_there_cannot_be_changed(self, accounts: Accounts) -> None:
        with pytest.raises(CallboardError) as caught:
            await accounts.change("k_0123456789abcdef", "standard")
        assert caught.value.info.code is ErrorCode.UNKNOWN_ACCOUNT
