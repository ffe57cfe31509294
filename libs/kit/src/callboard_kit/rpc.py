"""Requests to a service's queue group over the bus."""

import asyncio
import time
from collections.abc import Callable

from callboard_kit import tracing
from callboard_kit.bus import Bus, NoResponders

ASK_AGAIN_S = 0.1


async def ask_service(
    bus: Bus,
    subject: str,
    payload: bytes,
    timeout_s: float,
    on_late: Callable[[bytes], None] | None = None,
    late_s: float = 0.0,
    wait_s: float = 0.0,
) -> bytes:
    """Sends a request and returns the answer; while nobody listens, or the bus is away, it is tried again.

    `on_late` gets an answer that comes up to `late_s` after the timeout. With `wait_s` whoever works on the answer may
    say so, which puts off the timeout; see `Bus.request`.

    Raises:
        NoResponders: nobody got the request.
        BusUnavailable: it was sent and not answered in time.
    """
    until = time.monotonic() + timeout_s
    with tracing.span(f"ask {subject}", "client"):
        while True:
            try:
                if bus.connected:
                    return await bus.request(subject, payload, timeout_s, on_late, late_s, wait_s)
            except NoResponders:
                pass
            # No responder has the request, so a retry is safe; the service or the bus may be about to come back.
            if time.monotonic() + ASK_AGAIN_S >= until:
                raise NoResponders(subject)
            await asyncio.sleep(ASK_AGAIN_S)
