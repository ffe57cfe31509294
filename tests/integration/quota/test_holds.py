"""Holds, settlement and refusals through real processes on a real bus."""

import asyncio
import csv
import importlib
import json
import time

import pytest

from callboard_contracts import subjects
from callboard_contracts.accounts import key_digest
from callboard_contracts.errors import ErrorCode
from callboard_contracts.quota import IdentifyReply, IdentifyRequest, ReserveReply, Work
from callboard_kit.bus import Bus
from callboard_quota.domain.ledger import HELD_RETRY_S
from tests.integration.quota.deployment import (
    QuotaDeployment,
    audit,
    counters,
    event_of,
    eventually,
    hold_of,
    release,
    report,
    request,
    reserve,
    settled,
)
from tests.unit.quota.interleaving import unheld

pytestmark = pytest.mark.integration


async def key_of(deployment: QuotaDeployment, name: str, tier: str = "standard", *more: str) -> str:
    """A fresh key's digest."""
    output = await asyncio.to_thread(deployment.command, "keys", "create", "--name", name, "--tier", tier, *more)
    return key_digest(next(line for line in output.splitlines() if line.startswith("cb_")))


async def test_hold_is_settled_to_what_was_used(bus: Bus) -> None:
    hold = await hold_of(bus, request("settle-1", 500, address="198.51.100.1"))
    assert hold.tenant.startswith("i_")
    assert (await counters(bus))[hold.tenant, "units"] == 500_000
    await report(bus, event_of(hold, 120))
    await settled(bus)
    assert (await counters(bus))[hold.tenant, "units"] == 120_000


async def test_every_step_can_be_read_back_by_request(bus: Bus) -> None:
    hold = await hold_of(bus, request("audit-1", 500, address="198.51.100.2"))
    await report(bus, event_of(hold, 120))
    await settled(bus)

    async def both() -> bool:
        return len(await audit(bus, "audit-1")) == 2

    await eventually(both, "admission and settlement are noted")
    steps = {event.kind: event for event in await audit(bus, "audit-1")}
    assert steps["admitted"].units == 500_000
    assert steps["settled"].units == 120_000
    assert steps["settled"].hold_id == hold.id


async def test_burst_admits_exactly_what_there_is_room_for(deployment: QuotaDeployment, bus: Bus) -> None:
    digest = await key_of(deployment, "burst")

    async def burst(prefix: str, size: int) -> list[ReserveReply]:
        requests = [request(f"{prefix}-{n}", 10, key_digest=digest) for n in range(size)]
        return await asyncio.gather(*(reserve(bus, wanted) for wanted in requests))

    replies = await burst("first", 200)
    holds = [reply.hold for reply in replies if reply.hold]
    errors = [reply.error for reply in replies if reply.error]
    assert len(holds) == 20
    assert {error.limit for error in errors} == {"key.jobs_at_once"}
    assert {error.code for error in errors} == {ErrorCode.QUOTA_EXCEEDED}
    assert all(error.retry_after_s for error in errors)
    for hold in holds[:7]:
        await report(bus, event_of(hold, 10))
    await settled(bus)
    assert sum(reply.hold is not None for reply in await burst("second", 60)) == 7
    tenant = holds[0].tenant
    assert (await counters(bus))[tenant, "jobs"] == 20


async def test_caller_with_one_place_may_ask_again_right_after_each_answer(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    digest = await key_of(deployment, "sequential", "single")
    for n in range(50):
        reply = await reserve(bus, request(f"sequential-{n}", 10, key_digest=digest))
        assert reply.hold, (n, reply.error)
        await report(bus, event_of(reply.hold, 10))


async def test_caller_with_one_place_is_refused_while_a_job_runs(deployment: QuotaDeployment, bus: Bus) -> None:
    digest = await key_of(deployment, "parallel", "single")
    requests = [request(f"parallel-{n}", 10, key_digest=digest) for n in range(2)]
    replies = await asyncio.gather(*(reserve(bus, wanted) for wanted in requests))
    assert [reply.hold is None for reply in replies].count(True) == 1
    error = next(reply.error for reply in replies if reply.error)
    assert error.limit == "key.jobs_at_once"


async def test_burst_of_mixed_sizes_never_passes_the_limit(deployment: QuotaDeployment, bus: Bus) -> None:
    digest = await key_of(deployment, "mixed", "tiny")
    requests = [request(f"mixed-{n}", 7 + n % 5, key_digest=digest) for n in range(100)]
    replies = await asyncio.gather(*(reserve(bus, wanted) for wanted in requests))
    held = sum(reply.hold.entries[0].amount for reply in replies if reply.hold)
    assert 90_000 < held <= 100_000
    tenant = replies[0].tenant
    assert (await counters(bus))[tenant, "units"] == held


async def test_reply_says_how_much_is_left(deployment: QuotaDeployment, bus: Bus) -> None:
    digest = await key_of(deployment, "left", "tiny")
    reply = await reserve(bus, request("left-1", 30, key_digest=digest))
    assert [(state.limit, state.allowed, state.remaining) for state in reply.states] == [
        ("key.tokens_per_day", 100, 70)
    ]
    refusal = await reserve(bus, request("left-2", 80, key_digest=digest))
    assert refusal.error is not None
    assert refusal.error.limit == "key.tokens_per_day"
    assert refusal.error.retry_after_s == HELD_RETRY_S
    assert reply.hold is not None
    await report(bus, event_of(reply.hold, 30))
    await settled(bus)
    refusal = await reserve(bus, request("left-3", 80, key_digest=digest))
    assert refusal.error is not None
    assert refusal.error.retry_after_s is not None
    assert 24 * 3600 < refusal.error.retry_after_s <= 25 * 3600
    never = await reserve(bus, request("left-3", 101, key_digest=digest))
    assert never.error is not None
    assert never.error.retry_after_s is None


async def test_revoked_key_is_refused_at_once_by_every_process(deployment: QuotaDeployment, bus: Bus) -> None:
    output = await asyncio.to_thread(deployment.command, "keys", "create", "--name", "revoked")
    key = next(line for line in output.splitlines() if line.startswith("cb_"))
    for n in range(10):
        assert (await reserve(bus, request(f"before-{n}", 1, key_digest=key_digest(key)))).hold
    await asyncio.to_thread(deployment.command, "keys", "revoke", key)
    for n in range(20):
        error = (await reserve(bus, request(f"after-{n}", 1, key_digest=key_digest(key)))).error
        assert error is not None
        assert error.code == ErrorCode.INVALID_API_KEY
    assert key not in await asyncio.to_thread(deployment.command, "keys", "list", "--json")


async def test_rotated_key_keeps_the_account_and_ends_the_old_key(deployment: QuotaDeployment, bus: Bus) -> None:
    output = await asyncio.to_thread(deployment.command, "keys", "create", "--name", "rotated")
    old = next(line for line in output.splitlines() if line.startswith("cb_"))
    before = await hold_of(bus, request("rotate-1", 1, key_digest=key_digest(old)))
    output = await asyncio.to_thread(deployment.command, "keys", "rotate", old)
    new = next(line for line in output.splitlines() if line.startswith("cb_"))
    after = await hold_of(bus, request("rotate-2", 1, key_digest=key_digest(new)))
    assert after.tenant == before.tenant
    assert (await reserve(bus, request("rotate-3", 1, key_digest=key_digest(old)))).error


async def test_own_limit_of_a_key_replaces_the_tiers(deployment: QuotaDeployment, bus: Bus) -> None:
    output = await asyncio.to_thread(deployment.command, "keys", "create", "--name", "own limit")
    key = next(line for line in output.splitlines() if line.startswith("cb_"))
    await asyncio.to_thread(deployment.command, "keys", "change", key, "--limit", "tokens_per_day=50")
    refusal = await reserve(bus, request("own-1", 51, key_digest=key_digest(key)))
    assert refusal.error is not None
    assert refusal.error.limit == "key.tokens_per_day"
    await asyncio.to_thread(deployment.command, "keys", "change", key, "--limit", "tokens_per_day=none")
    assert (await reserve(bus, request("own-2", 51, key_digest=key_digest(key)))).hold


async def test_unknown_and_expired_keys_are_refused(deployment: QuotaDeployment, bus: Bus) -> None:
    error = (await reserve(bus, request("unknown", 1, key_digest=key_digest("cb_never")))).error
    assert error is not None
    assert error.code == ErrorCode.INVALID_API_KEY
    digest = await key_of(deployment, "ends", "standard", "--expires", "0m")
    error = (await reserve(bus, request("expired", 1, key_digest=digest))).error
    assert error is not None
    assert "expired" in error.message


async def test_addresses_of_one_ipv6_network_are_one_caller(bus: Bus) -> None:
    async def tenant(address: str) -> str:
        body = IdentifyRequest(address=address).model_dump_json().encode()
        return IdentifyReply.model_validate_json(await bus.request(subjects.QUOTA_IDENTIFY, body, 5)).tenant

    assert await tenant("2001:db8:1:2::1") == await tenant("2001:db8:1:2:ffff::9")
    assert await tenant("2001:db8:1:2::1") != await tenant("2001:db8:1:3::1")
    assert await tenant("::ffff:192.0.2.9") == await tenant("192.0.2.9")


async def test_released_hold_costs_nothing_and_only_once(bus: Bus) -> None:
    hold = await hold_of(bus, request("release-1", 500, address="198.51.100.3"))
    assert await release(bus, hold)
    assert not await release(bus, hold)
    assert (await counters(bus))[hold.tenant, "units"] == 0


async def test_repeated_events_count_once_whatever_they_say(bus: Bus) -> None:
    hold = await hold_of(bus, request("repeat-1", 500, address="198.51.100.4"))
    await report(bus, event_of(hold, 100))
    await settled(bus)
    for n in range(5):
        await report(bus, event_of(hold, 400), msg_id=f"repeat-{n}")
    await settled(bus)
    assert (await counters(bus))[hold.tenant, "units"] == 100_000


async def test_forged_and_absurd_events_count_for_nothing(bus: Bus) -> None:
    hold = await hold_of(bus, request("forged-1", 500, address="198.51.100.5"))
    entry = hold.entries[0].model_copy(update={"amount": 900_000})
    cheaper = hold.model_copy(update={"entries": (entry,)})
    events = {
        "changed": event_of(cheaper, 1),
        "absurd": event_of(hold, 10**12),
        "stranger": event_of(hold, 1).model_copy(update={"request_id": "somebody-else"}),
    }
    for name, event in events.items():
        await report(bus, event, msg_id=name)
    await bus.publish_stored(subjects.usage(hold.tenant), b'{"work": {"prompt_tokens": NaN}}', "nan")
    await bus.publish_stored(subjects.usage(hold.tenant), b"\xff\x00", "garbage")
    await settled(bus)
    assert (await counters(bus))[hold.tenant, "units"] == 500_000
    await report(bus, event_of(hold, 10))
    await settled(bus)
    assert (await counters(bus))[hold.tenant, "units"] == 10_000


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"work": {"prompt_tokens": -1}}, "work.prompt_tokens"),
        ({"work": {"prompt_tokens": 1.5}}, "work.prompt_tokens"),
        ({"work": {"prompt_tokens": "many"}}, "work.prompt_tokens"),
        ({"work": {"prompt_tokens": 10**15}}, "work"),
        ({"life_s": 0}, "life_s"),
        ({"life_s": 1e9}, "life_s"),
        ({"request_id": "a.b"}, "request_id"),
        ({"request_id": "x" * 65}, "request_id"),
        ({"address": "not an address"}, "address"),
        ({"kind": "song"}, "kind"),
    ],
)
async def test_bad_request_names_its_field_and_takes_nothing(bus: Bus, change: dict[str, object], param: str) -> None:
    body = {**json.loads(request("bad-1", address="198.51.100.6").model_dump_json()), **change}
    reply = ReserveReply.model_validate_json(await bus.request(subjects.QUOTA_RESERVE, json.dumps(body).encode(), 5))
    assert reply.hold is None
    assert reply.error is not None
    assert reply.error.code == ErrorCode.INVALID_REQUEST
    assert reply.error.param == param


async def test_bytes_that_are_no_message_are_answered(bus: Bus) -> None:
    for body in (b"", b"[]", b"\xff", b'{"work": NaN}'):
        reply = ReserveReply.model_validate_json(await bus.request(subjects.QUOTA_RESERVE, body, 5))
        assert reply.error is not None
        assert reply.error.code == ErrorCode.INVALID_REQUEST


async def test_work_admitted_without_a_hold_is_charged_once(bus: Bus) -> None:
    event = unheld("unheld-1", at=time.time(), work=Work(completion_tokens=70))
    await report(bus, event, msg_id="unheld-a")
    await report(bus, event, msg_id="unheld-b")
    await settled(bus)
    assert (await counters(bus))["i_0123456789abcdef", "units"] == 70_000


async def test_event_that_no_reader_could_bear_is_listed_and_stops_nothing(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    sound = unheld("unbearable", "i_00000000000000ff", at=time.time()).model_dump(mode="json")
    broken = [
        {**sound, "at": 1e18},
        {**sound, "at": time.time() * 1000},
        {**sound, "work": {"prompt_tokens": 10**40}},
        {**sound, "work": {"prompt_tokens": 1.5}},
        {**sound, "tenant": "i_00000000000000fe"},
        {**sound, "request_id": "unbearable-2", "tenant": "k_ffffffffffffffff"},
    ]
    for n, event in enumerate(broken):
        tenant = "i_00000000000000ff" if n < 5 else "k_ffffffffffffffff"
        await bus.publish_stored(subjects.usage(tenant), json.dumps(event).encode(), f"unbearable-{n}")
    await settled(bus)
    assert not [who for who, _ in await counters(bus) if who in {"i_00000000000000ff", "k_ffffffffffffffff"}]
    report = json.loads(await asyncio.to_thread(deployment.command, "usage", "verify", "--json", "--since", "1h"))
    assert report["drift_count"] == 0
    reasons = [one["reason"] for one in report["ignored"]]
    assert (reasons.count("unreadable") >= 5, "unknown_tenant" in reasons) == (True, True)
    exported = await asyncio.to_thread(deployment.command, "usage", "export", "-", "--since", "1h")
    assert "i_00000000000000fe" not in exported


async def test_speech_is_charged_by_the_millisecond(bus: Bus) -> None:
    wanted = request("speech-1", 0, kind="speech", address="198.51.100.7").model_copy(
        update={"work": Work(audio_ms=9000)}
    )
    hold = await hold_of(bus, wanted)
    assert hold.entries[0].amount == 900_000
    await report(bus, event_of(hold, 0, work=Work(audio_ms=1234)))
    await settled(bus)
    assert (await counters(bus))[hold.tenant, "units"] == 123_400


async def test_top_up_is_held_beside_the_first_hold_and_settled_with_it(deployment: QuotaDeployment, bus: Bus) -> None:
    digest = await key_of(deployment, "top up", "tiny")
    first = await hold_of(bus, request("top-1", 40, key_digest=digest))
    second = await hold_of(bus, request("top-1", 40, key_digest=None, address=None, extends=first))
    assert [entry.metric for entry in second.entries] == ["units"]
    refusal = await reserve(bus, request("top-1", 40, key_digest=None, address=None, extends=first))
    assert refusal.error is not None
    assert refusal.error.limit == "key.tokens_per_day"
    forged = first.model_copy(update={"expires_at": first.expires_at + 1})
    assert (await reserve(bus, request("top-1", 1, key_digest=None, address=None, extends=forged))).error
    await report(bus, event_of(first, 55, extensions=(second,)))
    await settled(bus)
    assert (await counters(bus))[first.tenant, "units"] == 55_000


@pytest.mark.timeout(400)
async def test_usage_commands_show_export_and_verify(deployment: QuotaDeployment, bus: Bus) -> None:
    hold = await hold_of(bus, request("shown-1", 500, address="198.51.100.8"))
    await report(bus, event_of(hold, 123))
    await settled(bus)
    shown = await asyncio.to_thread(deployment.command, "usage", "show", hold.tenant)
    assert [line.split()[-1] for line in shown.splitlines()] == ["TOKENS", "123"]
    audit_trail = await asyncio.to_thread(deployment.command, "usage", "audit", "shown-1")
    assert "admitted" in audit_trail
    assert "settled" in audit_trail
    csv_file, parquet_file = deployment.folder / "usage.csv", deployment.folder / "usage.parquet"
    await asyncio.to_thread(deployment.command, "usage", "export", str(csv_file))
    rows = list(csv.DictReader(csv_file.read_text(encoding="utf-8").splitlines()))
    assert next(row for row in rows if row["request_id"] == "shown-1")["prompt_tokens"] == "123"
    parquet = importlib.import_module("pyarrow.parquet")
    await asyncio.to_thread(deployment.command, "usage", "export", str(parquet_file))
    assert parquet.read_table(parquet_file).num_rows == len(rows)
    assert "drift: 0 tokens in 0 counters" in await asyncio.to_thread(deployment.command, "usage", "verify")
