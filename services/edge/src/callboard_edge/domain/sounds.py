"""A sound that is to be written down, from its upload until it lies on the bus."""

from collections.abc import Callable


class Sound:
    """The file as its client sent it, kept in memory until it is released."""

    def __init__(self, content: bytes | bytearray, on_release: Callable[[], None] = lambda: None) -> None:
        self.content = content
        self.size_bytes = len(content)
        self._on_release = on_release

    def release(self) -> None:
        """Forgets the bytes; safe to repeat."""
        self.content = b""
        self._on_release()
