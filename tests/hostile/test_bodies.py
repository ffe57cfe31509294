"""Random and compressed bodies, on every route of every protocol."""

import asyncio
import random
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from tests.hostile.bodies import examples, raw_bodies
from tests.hostile.compression import payloads
from tests.hostile.conftest import TIMEOUT_S, Siege
from tests.hostile.targets import all_targets, hearing_dialects, own_dialects
from tests.protocols.dialect import SpeechDialect

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(TIMEOUT_S)]

AT_ONCE = 3
BATCH = 24
PIECES = st.one_of(
    st.text(max_size=20).map(lambda text: quote(text, safe="", errors="replace")),
    st.sampled_from(["%ff", "%00", "%2e%2e", "..", "%", "%zz", "a" * 3000, "%ed%a0%80", "~", ";", "%2f"]),
)


def path_of(template: str, chance: random.Random) -> str:
    """A route's path with random parts and a random query."""
    while "{" in template:
        before, _, rest = template.partition("{")
        template = before + examples(PIECES, 1, chance.getrandbits(32))[0] + rest.partition("}")[2]
    if chance.random() < 0.3:
        name, value = examples(st.tuples(PIECES, PIECES), 1, chance.getrandbits(32))[0]
        template += f"?{name}={value}"
    return template


async def test_random_bodies_are_answered_in_the_protocols_form(siege: Siege) -> None:
    site = siege.site
    speaking = {one.path for one in own_dialects() if isinstance(one, SpeechDialect)}
    one_lane = speaking | {one.path for one in hearing_dialects()}
    targets = [target for target in all_targets() if site.speech or target.path not in speaking]
    strategies = {(target.method, target.path): raw_bodies(target) for target in targets}

    async def attack(chance: random.Random) -> None:
        target = chance.choice([*targets, *(one for one in targets if one.ordinary)])
        strategy = strategies[target.method, target.path]
        bodies = await asyncio.to_thread(examples, strategy, BATCH, chance.getrandbits(32))
        # Speech has one lane, which the neighbours need too; and each sound takes a process that decodes it.
        limit = asyncio.Semaphore(1 if target.path in one_lane else AT_ONCE)

        async def send(raw: bytes, path: str) -> None:
            async with limit:
                await site.send(session, target.dialect, path, raw, method=target.method)

        async with site.attackers() as session:
            await asyncio.gather(*(send(raw, path_of(target.path, chance)) for raw in bodies))

    assert await siege.withstand(0.25, attack) > 0


async def test_compressed_bodies_are_expanded_within_bounds(siege: Siege) -> None:
    site = siege.site
    kinds = await asyncio.to_thread(lambda: list(payloads()))

    async def attack(chance: random.Random) -> None:
        kind = chance.choice(kinds)
        dialect = chance.choice(site.dialects())

        async def send() -> None:
            reply = await site.send(
                session, dialect, dialect.path, kind.body, key="",
                headers={"Content-Encoding": kind.encoding}, busy_allowed=True,
            )  # fmt: skip
            if reply is not None and reply.status not in (*kind.statuses, 503):
                site.fault(f"{kind.name} ({kind.encoding[:40]}): {reply.status}", kind.body)

        async with site.attackers() as session:
            await asyncio.gather(*(send() for _ in range(chance.choice([1, 4, 24]))))

    assert await siege.withstand(0.1, attack) > 0
