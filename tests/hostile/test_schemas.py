"""JSON schemas that contradict themselves, explode, or are merely random; each is obeyed or refused, at once."""

import asyncio
import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from tests.hostile import schemas
from tests.hostile.bodies import examples
from tests.hostile.conftest import TIMEOUT_S, Siege
from tests.hostile.site import Reply, Site
from tests.hostile.targets import SCHEMA_CARRIERS, SchemaCarrier

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(TIMEOUT_S)]

AT_ONCE = 3
BATCH = 24
SETTLED_TRIES = 10
"""A job's place among those at once is free when its use is settled, a moment after its reply."""
Case = tuple[SchemaCarrier, Any]


async def ask(site: Site, cases: list[Case]) -> list[Reply | None]:
    """Asks for replies that satisfy schemas, a few at once; an answer that does not is a fault."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(carrier: SchemaCarrier, schema: Any) -> Reply | None:
        request = carrier.request(schema)
        async with limit:
            reply = await site.send(session, carrier.dialect, request.path, request.body)
            for _ in range(SETTLED_TRIES):
                if reply is None or reply.status != 429:
                    break
                await asyncio.sleep(1)
                reply = await site.send(session, carrier.dialect, request.path, request.body)
        if reply is None or reply.status >= 400:
            return reply
        found = carrier.dialect.read_whole(reply.body)
        # A reply that met its limit is cut.
        if found.reason == carrier.complete and (problem := violation(schema, found.text)):
            site.fault(f"{problem}: {found.text[:200]!r}", request.body)
        return reply

    async with site.attackers() as session:
        return await asyncio.gather(*(one(carrier, schema) for carrier, schema in cases))


def violation(schema: Any, text: str) -> str | None:
    """How a complete reply violates its schema; references to other documents are not followed."""
    try:
        value = json.loads(text)
        kind: Any = validator_for(schema, default=Draft202012Validator)
        return None if kind(schema).is_valid(value) else "the reply violates its schema"
    except ValueError:
        return "the reply is no JSON"
    except Exception:
        return None


@pytest.mark.parametrize("carrier", SCHEMA_CARRIERS, ids=lambda one: type(one.dialect).__name__)
async def test_contradictions_are_refused_with_the_bounds_named(carrier: SchemaCarrier, siege: Siege) -> None:
    cases = list(schemas.contradictions())
    replies = await ask(siege.site, [(carrier, case.schema) for case in cases])
    await siege.check()
    for case, reply in zip(cases, replies, strict=True):
        assert reply is not None, case.name
        assert reply.status == 400, (case.name, reply)
        message = carrier.dialect.read_error(reply.body).message
        assert all(word in message for word in case.words), (case.name, message)


async def test_explosive_schemas_are_obeyed_or_refused(siege: Siege) -> None:
    # Schemas are judged in one place; random ones go through every protocol that has them.
    carrier = SCHEMA_CARRIERS[0]
    cases = list(schemas.explosive())
    before = await asyncio.to_thread(siege.site.memory.now)
    replies = await ask(siege.site, [(carrier, schema) for _name, schema in cases])
    await siege.check()
    for (name, _schema), reply in zip(cases, replies, strict=True):
        assert reply is not None, name
        assert reply.status in {200, 400}, (name, reply)
    await asyncio.to_thread(siege.site.memory.check, before)


async def test_random_schemas_are_obeyed_or_refused(siege: Siege) -> None:
    official = schemas.official()

    async def attack(chance: random.Random) -> None:
        found = await asyncio.to_thread(examples, schemas.RANDOM, BATCH, chance.getrandbits(32))
        chosen = [*found, *chance.sample(official, BATCH // 2)]
        await ask(siege.site, [(chance.choice(SCHEMA_CARRIERS), schema) for schema in chosen])

    assert await siege.withstand(0.25, attack) > 0
