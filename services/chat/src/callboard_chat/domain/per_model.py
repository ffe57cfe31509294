"""What is kept for each model, of which there may be ever new ones where volunteers offer them."""

from collections.abc import Callable
from typing import Generic, TypeVar

MOST = 4096

V = TypeVar("V")


class PerModel(dict[str, V], Generic[V]):
    """A mapping that makes what it lacks, and forgets the oldest entry beyond `MOST`."""

    def __init__(self, make: Callable[[], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> V:
        if len(self) >= MOST:
            del self[next(iter(self))]
        value = self[name] = self._make()
        return value
