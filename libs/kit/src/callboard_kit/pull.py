"""What the server says of a message that was pulled, and of a pull that it does not fill."""

from nats.aio.msg import Msg

from callboard_contracts.streams import NANOSECONDS_PER_S

TROUBLE_PAUSE_S = 0.25
"""How long nothing is pulled after a pull was turned away, as it is at once where the consumer has no leader."""
_WORDS = 9
_DELIVERY_AT, _SEQ_AT, _TIME_AT = 4, 5, 7
"""Where these stand in the subject of a message's answer: `$JS.ACK` and seven words."""
_UNFILLED = frozenset({"404", "408"})


def status_of(message: Msg) -> str | None:
    """How the server ended a pull, or None for a message that fills one."""
    return message.headers.get("Status") if message.headers else None


def turned_away(status: str) -> bool:
    """Whether a pull ended because it cannot be served now, and not only because there was nothing to fill it."""
    return status not in _UNFILLED


def stored_at(message: Msg) -> float:
    """When a message that was pulled had been stored, in Unix seconds."""
    words, more = _words(message)
    return int(words[_TIME_AT + more]) / NANOSECONDS_PER_S


def place_of(message: Msg) -> tuple[int, int]:
    """The how many-th delivery of a message that was pulled this is, and its number in its stream."""
    words, more = _words(message)
    return int(words[_DELIVERY_AT + more]), int(words[_SEQ_AT + more])


def _words(message: Msg) -> tuple[list[str], int]:
    """The words of the subject of a message's answer, and how many of them are in front of the usual ones."""
    words = message.reply.split(".")
    # Between accounts and domains the server puts two more words in front.
    return words, 0 if len(words) == _WORDS else 2
