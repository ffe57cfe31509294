"""Who is let in: those who know the site's password, and holders of an API key."""

import hashlib
import hmac
import math
from typing import Any, cast

from callboard_contracts.accounts import KEY_PREFIX, key_digest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.spirit_box import SpiritBoxSection
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.attempts import Attempts
from callboard_edge.domain.caller import Caller

USER = "seance"
MAX_PASSWORD_CHARACTERS = 1024


class Door:
    """Checks passwords; an address with many wrong ones is not listened to for a while."""

    def __init__(self, settings: SpiritBoxSection, admission: Admission) -> None:
        self._password = _digest(settings.password.get_secret_value()) if settings.password is not None else None
        api_key = settings.api_key.get_secret_value() if settings.api_key is not None else None
        self._key_digest = key_digest(api_key) if api_key else None
        self._admission = admission
        # Whoever has a key may not guess the password between two uses of it.
        self._passwords, self._keys = Attempts(), Attempts()

    async def caller(self, credentials: Any, address: str | None) -> Caller:
        """The caller that a visitor counts as.

        Raises:
            CallboardError: the password is wrong, the key is unknown, the address is blocked, or quota is away.
        """
        typed, address_name = _typed(credentials), address or ""
        attempts = self._keys if self._password is None or typed.startswith(KEY_PREFIX) else self._passwords
        if (wait_s := attempts.blocked_s(address_name)) > 0:
            # The page shows the words, and has no other place for the time.
            message = f"Too many wrong passwords; try again in {math.ceil(wait_s)} s."
            raise CallboardError(ErrorCode.TOO_MANY_ATTEMPTS, message, retry_after_s=wait_s)
        try:
            caller = await self._known(typed, address)
        except CallboardError as error:
            if error.info.code is ErrorCode.INVALID_API_KEY:
                attempts.fail(address_name)
            raise
        attempts.clear(address_name)
        return caller

    async def _known(self, typed: str, address: str | None) -> Caller:
        if self._password is not None and hmac.compare_digest(_digest(typed), self._password):
            caller = Caller(self._key_digest, address)
            await self._admission.check_caller(caller)
        elif typed.startswith(KEY_PREFIX):
            caller = Caller(key_digest(typed), address)
            await self._admission.identify(caller)
        else:
            raise CallboardError(ErrorCode.INVALID_API_KEY, "The password is wrong.")
        return caller


def _typed(credentials: Any) -> str:
    """What was typed; nothing where the packet has no password, or is of somebody else."""
    found: dict[Any, Any] = cast("dict[Any, Any]", credentials) if isinstance(credentials, dict) else {}
    password = found.get("password")
    if found.get("user") != USER or not isinstance(password, str) or len(password) > MAX_PASSWORD_CHARACTERS:
        return ""
    return password


def _digest(password: str) -> bytes:
    """All digests are of one length, so that the time of a comparison reveals nothing."""
    return hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest()
