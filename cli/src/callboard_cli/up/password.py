"""The one password of a site that serves a single model, kept as the key of an account."""

import time

from callboard_admin.accounts import Accounts
from callboard_contracts.accounts import key_digest

NAME = "password"


async def accept_password(accounts: Accounts, password: str, tier: str) -> None:
    """Has the site accept a password as a key, and the one before it no more; what callers kept stays theirs.

    Raises:
        BusError: the bus fails.
        CallboardError: the password is the key of somebody.
    """
    now = time.time()
    account = next((one for one in await accounts.all() if one.name == NAME), None)
    if account is None:
        account, _key = await accounts.create(NAME, tier, None, key=password)
    known = account.key(key_digest(password))
    if known is None or not known.valid_at(now):
        await accounts.rotate(account.id, None, now, key=password)
