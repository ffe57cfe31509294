"""Who asks: the holder of a key, or everybody else by the anonymous key."""

import re
from collections.abc import Mapping

from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.protocols.horde.errors import Refusal

APIKEY = "apikey"
ANONYMOUS_KEY = "0000000000"
ACCOUNT_MARK = "k_"
_SHARED_KEY = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def key_of(headers: Mapping[str, str]) -> str:
    """The key that a request carries; nothing for the anonymous one."""
    key = headers.get(APIKEY, "").strip()
    return "" if key == ANONYMOUS_KEY else key


def check_key(call: Call) -> None:
    """Refuses a caller without a key, and one whose key cannot be one of this site.

    Whether it is one is seen by quota, which is asked for what a request costs.

    Raises:
        Refusal: what is wrong with the key.
    """
    if not call.request.headers.get(APIKEY, "").strip():
        raise Refusal(400, "BadRequest", "Missing required parameter in the HTTP headers.", APIKEY)
    key = key_of(call.request.headers)
    if _SHARED_KEY.fullmatch(key):
        raise Refusal(403, "SharedKeyExpired", "Shared keys are not offered here; use an API key of this site.")
    if key and call.caller.key_digest is None:
        raise Refusal(
            401, "InvalidAPIKey", f"No user of this site has that API key; use {ANONYMOUS_KEY} to ask without one."
        )


async def account_of(context: EdgeContext, call: Call) -> str | None:
    """The caller's account, None for one without a key; raises Refusal and CallboardError."""
    check_key(call)
    tenant = (await context.admission.identify(call.caller)).tenant
    return tenant if call.caller.key_digest is not None and tenant.startswith(ACCOUNT_MARK) else None
