"""Kudos through real processes: every rule, and kill -9 in the middle of many transfers."""

import asyncio
import json
import random
import time

import pytest

from callboard_contracts import subjects
from callboard_contracts.accounts import key_digest
from callboard_contracts.errors import ErrorCode
from callboard_contracts.kudos import KudosReply
from callboard_contracts.quota import VolunteerWork
from callboard_kit.bus import Bus, BusError
from tests.integration.quota.deployment import (
    QuotaDeployment,
    audit,
    event_of,
    eventually,
    no_leases,
    report,
    request,
    reserve,
    settled,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


async def account_of(deployment: QuotaDeployment, name: str) -> tuple[str, str]:
    """A fresh account's id and its key's digest."""
    output = await asyncio.to_thread(deployment.command, "keys", "create", "--name", name)
    digest = key_digest(next(line for line in output.splitlines() if line.startswith("cb_")))
    accounts = json.loads(await asyncio.to_thread(deployment.command, "keys", "list", "--json"))
    return next(one["id"] for one in accounts if one["name"] == name), digest


async def kudos(bus: Bus, subject: str, **fields: object) -> KudosReply:
    """Asks quota for something about kudos."""
    return KudosReply.model_validate_json(await bus.request(subject, json.dumps(fields).encode(), 10.0))


async def earn(bus: Bus, transaction: str, account: str, amount: object) -> KudosReply:
    return await kudos(bus, subjects.QUOTA_KUDOS_EARN, id=transaction, account=account, amount=amount)


async def transfer(bus: Bus, transaction: str, source: str, target: str, amount: object) -> KudosReply:
    return await kudos(bus, subjects.QUOTA_KUDOS_TRANSFER, id=transaction, source=source, target=target, amount=amount)


async def balance(bus: Bus, account: str) -> int:
    return (await kudos(bus, subjects.QUOTA_KUDOS_SHOW, account=account)).balance


async def test_transactions_count_once_and_never_overdraw(deployment: QuotaDeployment, bus: Bus) -> None:
    ada, _ = await account_of(deployment, "transactions-ada")
    bob, _ = await account_of(deployment, "transactions-bob")
    assert (await earn(bus, "transactions-1", ada, 5_000)).balance == 5_000
    again = await earn(bus, "transactions-1", ada, 5_000)
    assert (again.balance, again.repeated, again.error) == (5_000, True, None)
    transfers = await asyncio.gather(*(transfer(bus, f"transactions-move-{n}", ada, bob, 1_000) for n in range(20)))
    assert sum(move.error is None for move in transfers) == 5
    refused = next(move for move in transfers if move.error)
    assert refused.error is not None
    assert (refused.error.code, refused.error.limit) == (ErrorCode.QUOTA_EXCEEDED, "key.kudos")
    assert (await balance(bus, ada), await balance(bus, bob)) == (0, 5_000)
    back = await asyncio.gather(*(transfer(bus, "transactions-back", bob, ada, 3_000) for _ in range(10)))
    assert sum(not one.repeated for one in back) == 1
    assert (await balance(bus, ada), await balance(bus, bob)) == (3_000, 2_000)

    async def recorded() -> bool:
        return [event.kind for event in await audit(bus, "transactions-back")] == ["settled"]

    await eventually(recorded, "the transaction is recorded once")


@pytest.mark.parametrize("amount", [0, -1, 10**15 + 1, 10**40, 1.5, 2.0, "7", True, None, float("nan")])
async def test_amount_that_is_none_is_refused(deployment: QuotaDeployment, bus: Bus, amount: object) -> None:
    name = f"amount-{amount!r:.20}"
    account, _ = await account_of(deployment, name)
    reply = await earn(bus, f"amount-{abs(hash(name))}", account, amount)
    assert reply.error is not None
    assert reply.error.code == ErrorCode.INVALID_REQUEST
    assert await balance(bus, account) == 0


async def test_transaction_with_oneself_a_stranger_or_a_used_id_is_refused(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    ada, _ = await account_of(deployment, "rules-ada")
    bob, _ = await account_of(deployment, "rules-bob")
    await earn(bus, "rules-1", ada, 1_000)
    for reply in (
        await transfer(bus, "rules-2", ada, ada, 1),
        await transfer(bus, "rules-3", ada, "k_ffffffffffffffff", 1),
        await transfer(bus, "rules-4", "no such.account", ada, 1),
        await transfer(bus, "not an id", ada, bob, 1),
        await earn(bus, "rules-1", ada, 999),
        await transfer(bus, "rules-1", ada, bob, 1_000),
    ):
        assert reply.error is not None
        assert reply.error.code == ErrorCode.INVALID_REQUEST
    assert (await balance(bus, ada), await balance(bus, bob)) == (1_000, 0)
    refusals = [await asyncio.to_thread(service.metrics) for service in deployment.quotas]
    for rule in ("same_account", "unknown_account", "not_a_token", "other_contents"):
        assert sum(one[f'callboard_quota_kudos_refusals_total{{reason="{rule}"}}'] for one in refusals) > 0


async def test_hold_takes_kudos_and_settles_to_what_was_spent(deployment: QuotaDeployment, bus: Bus) -> None:
    account, digest = await account_of(deployment, "spends")
    await earn(bus, "spends-1", account, 10_000)
    reply = await reserve(bus, request("spends-a", 10, key_digest=digest, kudos=8_000))
    assert reply.hold
    assert await balance(bus, account) == 2_000
    refused = await reserve(bus, request("spends-b", 10, key_digest=digest, kudos=3_000))
    assert refused.error is not None
    assert refused.error.limit == "key.kudos"
    await report(bus, event_of(reply.hold, 10).model_copy(update={"kudos": 4_200}))
    await settled(bus)
    assert await balance(bus, account) == 5_800
    nobody = await reserve(bus, request("spends-c", 10, address="198.51.100.77", kudos=1))
    assert nobody.error is not None
    assert nobody.error.code == ErrorCode.INVALID_REQUEST


async def test_hold_that_expires_gives_kudos_back_and_later_work_takes_none(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    account, digest = await account_of(deployment, "expires")
    await earn(bus, "expires-1", account, 1_000)
    reply = await reserve(bus, request("expires-a", 10, key_digest=digest, kudos=1_000, life_s=0.2))
    assert reply.hold

    async def back() -> bool:
        return await balance(bus, account) == 1_000

    await eventually(back, "the kudos went back")
    await report(bus, event_of(reply.hold, 10).model_copy(update={"kudos": 500}))
    await settled(bus)
    assert await balance(bus, account) == 1_000


async def test_volunteer_is_paid_once_for_its_work_and_the_requester_pays_what_it_cost(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    requester, digest = await account_of(deployment, "asks")
    owner, _ = await account_of(deployment, "lends")
    await earn(bus, "asks-1", requester, 5_000)
    reply = await reserve(bus, request("asks-a", 10, key_digest=digest, kudos=8_000, kudos_if_any=True))
    assert reply.hold
    assert reply.hold.kudos == 5_000
    worker = "5a1c4be0-5d7e-5f0f-9c54-2f3c2f0f7f11"
    paid = VolunteerWork(worker=worker, owner=owner, reward=3_200)
    event = event_of(reply.hold, 10).model_copy(update={"kudos": 4_200, "volunteer": paid})
    subject = subjects.usage(event.tenant)
    for number in range(3):
        # Under other ids, as after a restart of the bus: the stream takes them all, quota counts one.
        await bus.publish_stored(subject, event.encoded(), f"asks-a.{number}")
    await settled(bus)
    assert (await balance(bus, requester), await balance(bus, owner)) == (800, 3_200)
    present = int(time.time() // 600)
    for _ in range(2):
        fields = {"worker": worker, "account": owner, "period": present, "amount": 40_000}
        assert (await kudos(bus, subjects.QUOTA_KUDOS_UPTIME, **fields)).balance == 43_200
    leaders = await asyncio.to_thread(deployment.command, "kudos", "leaders")
    assert next(line for line in leaders.splitlines() if line.startswith("lends")).split()[1:] == [
        "43.2",
        "3.2",
        "40",
        "43.2",
    ]

    async def told() -> bool:
        shown = await asyncio.to_thread(deployment.command, "kudos", "worker", worker)
        rows = [line.split()[1:] for line in shown.splitlines()[1:]]
        return rows == [
            ["3.2", "reward", owner, "reward-asks-a"],
            ["40", "uptime", owner, f"uptime-{worker}-{present}"],
        ]

    await eventually(told, "the worker's payments are recorded")
    await asyncio.to_thread(deployment.command, "kudos", "verify")


async def test_command_line_shows_credits_moves_and_verifies(deployment: QuotaDeployment) -> None:
    ada, _ = await account_of(deployment, "cli-ada")
    await account_of(deployment, "cli-bob")
    assert "12.5" in await asyncio.to_thread(deployment.command, "kudos", "earn", "cli-ada", "12.5", "--id", "cli-1")
    repeated = await asyncio.to_thread(deployment.command, "kudos", "earn", "cli-ada", "12.5", "--id", "cli-1")
    assert "made before" in repeated
    await asyncio.to_thread(deployment.command, "kudos", "transfer", "cli-ada", "cli-bob", "2.5")
    assert await asyncio.to_thread(deployment.command, "kudos", "show", "cli-ada") == f"{ada}  10\n"
    history = await asyncio.to_thread(deployment.command, "kudos", "history", "cli-ada")
    assert len(history.splitlines()) == 3
    assert "balances" in await asyncio.to_thread(deployment.command, "kudos", "verify")


@pytest.mark.slow
async def test_killed_processes_neither_make_nor_lose_kudos(own_deployment: QuotaDeployment) -> None:
    deployment, chance = own_deployment, random.Random(7)
    await asyncio.to_thread(deployment.start, 2)
    names = [(await account_of(deployment, f"kill-{n}"))[0] for n in range(5)]
    async with deployment.bus() as bus:
        for n, name in enumerate(names):
            await earn(bus, f"kill-earn-{n}", name, 1_000)

        async def move(n: int) -> None:
            source, target = chance.sample(names, 2)
            amount = chance.randint(1, 700)
            for _ in range(20):
                try:
                    reply = KudosReply.model_validate_json(
                        await bus.request(
                            subjects.QUOTA_KUDOS_TRANSFER,
                            json.dumps(
                                {"id": f"kill-{n}", "source": source, "target": target, "amount": amount}
                            ).encode(),
                            1.0,
                        )
                    )
                except BusError:
                    await asyncio.sleep(0.1)
                    continue
                if reply.error is None or reply.error.code != ErrorCode.QUOTA_UNAVAILABLE:
                    return

        async def kills() -> None:
            for _ in range(4):
                await asyncio.sleep(0.4)
                victim = chance.choice([service for service in deployment.quotas if service.alive])
                await asyncio.to_thread(victim.running.kill)
                replacement = await asyncio.to_thread(deployment.add)
                await asyncio.to_thread(replacement.wait_ready)

        async def transfers(first: int) -> None:
            for n in range(first, 1_200, 12):
                await move(n)

        async with asyncio.TaskGroup() as group:
            group.create_task(kills())
            for first in range(12):
                group.create_task(transfers(first))
        await no_leases(bus)
        balances = [await balance(bus, name) for name in names]
        assert sum(balances) == 5_000
        assert min(balances) >= 0
    assert "earned 5, spent 0, held 0\nbalances 5\n" in await asyncio.to_thread(deployment.command, "kudos", "verify")
