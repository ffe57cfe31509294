"""A process that acts as edges and workers: it takes holds, reports usage, and may be killed at any moment.

Each job asks for a hold, works for a moment and reports, sometimes twice, sometimes with another amount under another
id; some are given back, some are never heard of again. What was granted is written to a file line by line.
"""

import argparse
import asyncio
import random
import sys
from pathlib import Path

from callboard_contracts.config import NatsSection
from callboard_contracts.errors import ErrorCode
from callboard_kit.bus import Bus, BusError
from tests.integration.quota.deployment import event_of, release, report, request, reserve

AT_ONCE = 8


async def send_load(bus: Bus, name: str, chance: random.Random, tenants: int, grants: Path) -> None:
    """Runs jobs until the process ends."""
    with grants.open("a", encoding="utf-8") as file:
        number = 0

        async def actor() -> None:
            nonlocal number
            while True:
                number += 1
                try:
                    await job(f"{name}-{number}")
                    file.flush()
                except (BusError, TimeoutError):
                    await asyncio.sleep(0.05)

        async def job(request_id: str) -> None:
            caller = chance.randrange(tenants)
            wanted = request(
                request_id,
                chance.randint(1, 60),
                address=f"10.1.{caller // 250}.{caller % 250}",
                life_s=2.0,
                key_digest=None,
            )
            reply = await reserve(bus, wanted, timeout_s=3)
            if reply.hold is None:
                if reply.error and reply.error.code == ErrorCode.QUOTA_EXCEEDED:
                    await asyncio.sleep(0.01)
                return
            hold = reply.hold
            file.write(f"{hold.id}\n")
            held = hold.entries[0].amount // 1000
            await asyncio.sleep(chance.random() * 0.05)
            outcome = chance.random()
            if outcome < 0.05:
                return
            if outcome < 0.10:
                await release(bus, hold)
                return
            await report(bus, event_of(hold, chance.randint(0, held)))
            if outcome < 0.15:
                await report(bus, event_of(hold, chance.randint(0, held)), msg_id=f"again.{request_id}")

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(actor())


async def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("seed", type=int)
    parser.add_argument("tenants", type=int)
    parser.add_argument("grants", type=Path)
    arguments = parser.parse_args()
    bus = await Bus.connect(NatsSection(url=arguments.url), arguments.name, lambda: sys.exit(3))
    chance = random.Random(arguments.seed)
    await send_load(bus, arguments.name, chance, arguments.tenants, arguments.grants)


if __name__ == "__main__":
    asyncio.run(main())
