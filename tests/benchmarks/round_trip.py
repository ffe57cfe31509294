"""One request and its answer over the bus alone, between two processes: the thermometer of the machine.

A reply through Callboard is about fourteen such steps from process to process, so this figure says how much of the
added time is the machine's own.
"""

import asyncio
import subprocess
import sys
import time

import nats
import uvloop
from nats.aio.msg import Msg

SUBJECT = "bench.echo"
SAMPLES = 2_000
PAYLOAD = b"x" * 100
ANSWER_TIMEOUT_S = 5.0


def round_trips_us(url: str) -> list[float]:
    """Measures round trips, one after another, in microseconds."""
    echo = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.round_trip", url], stdout=subprocess.PIPE)
    try:
        assert echo.stdout is not None
        echo.stdout.readline()
        return uvloop.run(_ask(url))
    finally:
        echo.kill()
        echo.wait(10)
        if echo.stdout:
            echo.stdout.close()


async def _ask(url: str) -> list[float]:
    connection = await nats.connect(url, allow_reconnect=False)
    taken: list[float] = []
    for _ in range(SAMPLES):
        start = time.monotonic_ns()
        await connection.request(SUBJECT, PAYLOAD, timeout=ANSWER_TIMEOUT_S)
        taken.append((time.monotonic_ns() - start) / 1000)
    await connection.close()
    return taken


async def _answer(url: str) -> None:
    connection = await nats.connect(url, allow_reconnect=False)

    async def echo(message: Msg) -> None:
        await connection.publish(message.reply, message.data)

    await connection.subscribe(SUBJECT, cb=echo)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_answer(sys.argv[1]))
