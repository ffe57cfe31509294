"""How failures of the bus appear to the domain."""

from collections.abc import Generator
from contextlib import contextmanager

from callboard_kit.bus import BusError
from callboard_quota.domain.ports import StoreUnavailable


@contextmanager
def bus_errors_as_unavailable() -> Generator[None]:
    """Raises StoreUnavailable for errors of the bus."""
    try:
        yield
    except BusError as error:
        raise StoreUnavailable(str(error)) from error
