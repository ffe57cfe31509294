"""How the server answers a pull that it does not fill."""

from nats.aio.msg import Msg

TROUBLE_PAUSE_S = 0.25
"""How long nothing is pulled after a pull was turned away, as it is at once where the consumer has no leader."""
_UNFILLED = frozenset({"404", "408"})


def status_of(message: Msg) -> str | None:
    """How the server ended a pull, or None for a message that fills one."""
    return message.headers.get("Status") if message.headers else None


def turned_away(status: str) -> bool:
    """Whether a pull ended because it cannot be served now, and not only because there was nothing to fill it."""
    return status not in _UNFILLED
