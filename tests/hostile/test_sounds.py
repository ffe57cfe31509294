"""Broken forms and broken sounds, on every path that hears, with a real recogniser."""

import asyncio
import random

import pytest

from tests.hostile.conftest import TIMEOUT_S, Siege
from tests.hostile.sounds import spoiled_file, spoiled_form, whole_files
from tests.hostile.targets import hearing_dialects
from tests.support.deployment import HEARING_MODEL
from tests.support.forms import FORM, form

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(TIMEOUT_S)]

FORMS = 12
"""How many broken forms come with each broken file; hardly any of them reaches a decoder."""


async def test_broken_forms_and_sounds_are_refused_and_no_worker_is_lost(siege: Siege) -> None:
    site = siege.site
    if not site.hearing:
        pytest.skip("the recogniser's model is missing; `make hearing-models` fetches it")
    dialects = hearing_dialects()
    whole = await asyncio.to_thread(whole_files)

    async def attack(chance: random.Random) -> None:
        dialect = chance.choice(dialects)
        file = spoiled_file(whole, chance)
        async with site.attackers() as session:
            for _ in range(FORMS):
                raw, content_type = spoiled_form(file[:2000], chance)
                await site.send(session, dialect, dialect.path, raw, headers={"Content-Type": content_type})
            right = form({"model": HEARING_MODEL}, file)
            reply = await site.send(session, dialect, dialect.path, right, headers={"Content-Type": FORM})
            if reply is not None and reply.status not in {200, 400}:
                site.fault(f"a broken sound: {reply.status}", file)

    assert await siege.withstand(0.1, attack) > 0
