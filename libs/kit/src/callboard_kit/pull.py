"""How the server answers a pull that it does not fill."""

from nats.aio.msg import Msg

from callboard_contracts.streams import NANOSECONDS_PER_S

TROUBLE_PAUSE_S = 0.25
"""How long nothing is pulled after a pull was turned away, as it is at once where the consumer has no leader."""
_WORDS = 9
_TIME_AT = 7
"""Where the time stands in the subject of a message's answer: `$JS.ACK` and seven words."""
_UNFILLED = frozenset({"404", "408"})


def status_of(message: Msg) -> str | None:
    """How the server ended a pull, or None for a message that fills one."""
    return message.headers.get("Status") if message.headers else None


def turned_away(status: str) -> bool:
    """Whether a pull ended because it cannot be served now, and not only because there was nothing to fill it."""
    return status not in _UNFILLED


def stored_at(message: Msg) -> float:
    """When a message that was pulled had been stored, in Unix seconds."""
    words = message.reply.split(".")
    # Between accounts and domains the server puts two more words in front.
    return int(words[_TIME_AT if len(words) == _WORDS else _TIME_AT + 2]) / NANOSECONDS_PER_S
