"""What every bucket of accounts must do, by the book that is kept in it."""

import time

import pytest

from callboard_admin.accounts import Accounts, Entries
from callboard_contracts.accounts import key_digest, key_entry
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_kit.bucket import Conflict


class AccountSuite:
    """A subclass supplies the fixture `entries`, an empty bucket, and `book`, which is kept in it."""

    async def test_account_is_found_by_its_id_its_name_and_its_key(self, entries: Entries, book: Accounts) -> None:
        account, key = await book.create("ann", "standard", None, {"jobs_at_once": 3})
        digest = key_digest(key)
        for text in (account.id, "ann"):
            assert await book.find(text) == (account, None)
        for text in (key, digest, digest[:8]):
            assert await book.find(text) == (account, account.keys[0])
        named = await entries.get(key_entry(digest))
        assert named is not None
        assert named.value == account.id.encode()
        assert account.limits.jobs_at_once == 3

    async def test_accounts_come_in_the_order_of_their_making(self, book: Accounts) -> None:
        made = [(await book.create(f"n{n}", "standard", None))[0] for n in range(5)]
        assert await book.all() == made

    async def test_entry_is_made_once_and_changed_only_as_it_was_read(self, entries: Entries) -> None:
        first = await entries.put("account.x", b"1", 0)
        with pytest.raises(Conflict):
            await entries.put("account.x", b"2", 0)
        second = await entries.put("account.x", b"2", first)
        with pytest.raises(Conflict):
            await entries.put("account.x", b"3", first)
        assert second > first
        entry = await entries.get("account.x")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"2", second)
        assert await entries.get("account.y") is None

    async def test_list_has_the_newest_of_what_matches(self, entries: Entries) -> None:
        revision = await entries.put("account.x", b"1", 0)
        await entries.put("account.x", b"2", revision)
        await entries.put("key.x", b"3", 0)
        assert [entry.value for entry in await entries.list("account.*", 10)] == [b"2"]

    async def test_rotated_and_revoked_keys_end(self, book: Accounts) -> None:
        account, old = await book.create("ann", "standard", None)
        now = time.time()
        _account, new = await book.rotate(account.id, None, now + 60)
        stands, _key = await book.find(account.id)
        assert [key.expires_at for key in stands.keys] == [pytest.approx(now + 60), None]
        _stands, key = await book.find(new)
        assert key is not None
        stands = await book.revoke(account.id, key.digest)
        assert [one.valid_at(now) for one in stands.keys] == [True, False]
        stands = await book.revoke(account.id, None)
        assert not any(one.valid_at(now) for one in stands.keys)
        assert (await book.find(old))[0] == stands

    async def test_account_that_is_not_there_cannot_be_changed(self, book: Accounts) -> None:
        with pytest.raises(CallboardError) as caught:
            await book.change("k_0123456789abcdef", "standard")
        assert caught.value.info.code is ErrorCode.UNKNOWN_ACCOUNT
