"""One listener of a room's stream: what it is sent, and what becomes of one that does not keep up."""

from collections.abc import Callable, Sequence

METADATA_INTERVAL_BYTES = 16_000
MAX_TITLE_BYTES = 500
_BLOCK_BYTES = 16


class Listener:
    """Passes frames on at once, without a queue of its own.

    `write` hands bytes to the connection and `waiting_bytes` says how many it has not sent yet. A listener of whom more
    than `max_waiting_bytes` wait misses whole frames, so what it is behind never grows; `stop` is called when that has
    lasted for `timeout_s`, or when the stream ends. With `titles` the speaker's name is put between the frames.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        waiting_bytes: Callable[[], int],
        stop: Callable[[], None],
        max_waiting_bytes: int,
        timeout_s: float,
        *,
        titles: bool = False,
    ) -> None:
        self.sent_bytes = 0
        self.too_slow = False
        self.stop = stop
        self._write = write
        self._waiting_bytes = waiting_bytes
        self._max_waiting_bytes = max_waiting_bytes
        self._timeout_s = timeout_s
        self._behind_since: float | None = None
        self._titles = _Titles() if titles else None

    def send(self, frames: Sequence[bytes], title: str, now: float) -> int:
        """Sends frames, or leaves them out; returns how many were left out.

        `now` is in seconds of a clock that never goes back.
        """
        if self.too_slow:
            return len(frames)
        if self._waiting_bytes() > self._max_waiting_bytes:
            if self._behind_since is None:
                self._behind_since = now
            elif now - self._behind_since > self._timeout_s:
                self.too_slow = True
                self.stop()
            return len(frames)
        self._behind_since = None
        data = b"".join(frames)
        if self._titles is not None:
            data = self._titles.put_into(data, title)
        self.sent_bytes += len(data)
        self._write(data)
        return 0


class _Titles:
    """Puts a title into a stream, as Icecast does: after each 16,000 bytes, and empty where it has not changed."""

    def __init__(self) -> None:
        self._left_bytes = METADATA_INTERVAL_BYTES
        self._sent = ""

    def put_into(self, data: bytes, title: str) -> bytes:
        parts: list[bytes] = []
        while len(data) >= self._left_bytes:
            parts += (data[: self._left_bytes], self._block(title))
            data = data[self._left_bytes :]
            self._left_bytes = METADATA_INTERVAL_BYTES
        self._left_bytes -= len(data)
        return b"".join((*parts, data))

    def _block(self, title: str) -> bytes:
        if title == self._sent:
            return b"\0"
        self._sent = title
        text = b"StreamTitle='%s';" % metadata_text(title)
        blocks = -(-len(text) // _BLOCK_BYTES)
        return bytes([blocks]) + text.ljust(blocks * _BLOCK_BYTES, b"\0")


def metadata_text(text: str) -> bytes:
    """A name as it can stand in metadata and headers: one line, without the quote that would end it."""
    line = "".join(sign for sign in text.replace("'", "\u2019") if sign.isprintable())
    return line.encode("utf-8", "ignore")[:MAX_TITLE_BYTES].decode("utf-8", "ignore").encode()
