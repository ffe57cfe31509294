"""The increments that take, give back and settle a hold, each under an id of the hold, and its audit events."""

from typing import NamedTuple

from callboard_contracts.kudos import KUDOS_CREDIT_METRIC, KUDOS_METRIC
from callboard_contracts.quota import AuditEvent, AuditKind, Hold, HoldEntry, UsageEvent
from callboard_quota.domain.amounts import Cost
from callboard_quota.domain.limit_kinds import charge_of, is_measured, measured
from callboard_quota.domain.ports import Change, Counter


class Charge(NamedTuple):
    """What is charged to a hold.

    `total_units` is what the work cost on all of its holds, this one by default; it is kept with the outcome. Of
    `kudos` no more is taken than was held, and nothing once the hold had ended.
    """

    hold: Hold
    units: int
    reason: str = ""
    total_units: int | None = None
    kudos: int = 0
    heard_ms: int = 0


def late_id(hold: Hold) -> str:
    """The id of the outcome of a charge after a hold's end."""
    return f"{hold.id}.late"


def is_transaction(hold: Hold) -> bool:
    """Whether the hold is a kudos transaction, which credits an account when it is settled."""
    return KUDOS_CREDIT_METRIC in [entry.metric for entry in hold.entries]


def credited_kudos(hold: Hold) -> int:
    """The kudos that a transaction credits to an account."""
    return sum(entry.amount for entry in hold.entries if entry.metric == KUDOS_CREDIT_METRIC)


def increments(hold: Hold) -> list[Change]:
    """The increments that take a hold."""
    return [
        Change(_counter(entry), entry.amount, f"{hold.id}.r{n}")
        for n, entry in enumerate(hold.entries)
        if entry.metric != KUDOS_CREDIT_METRIC
    ]


def reversal(hold: Hold) -> list[Change]:
    """The increments that give a hold back whole."""
    return [
        Change(_counter(entry), -entry.amount, f"{hold.id}.s{n}")
        for n, entry in enumerate(hold.entries)
        if entry.metric != KUDOS_CREDIT_METRIC
    ]


def settlement(hold: Hold, outcome: AuditEvent) -> list[Change]:
    """The increments that leave of a hold what its work cost, as its outcome says."""
    remains = {"cost": outcome.units, "heard": outcome.heard_ms, "kudos": outcome.kudos, "nothing": 0}
    return [
        Change(_counter(entry), remains[charge] - entry.amount, f"{hold.id}.s{n}")
        for n, entry in enumerate(hold.entries)
        if (charge := charge_of(entry.metric)) != "all"
    ]


def late_charge(hold: Hold, outcome: AuditEvent) -> list[Change]:
    """The increments that charge work whose hold had ended; kudos that went back are left where they are."""
    cost = Cost(outcome.units, outcome.heard_ms)
    return [
        Change(_counter(entry), measured(charge_of(entry.metric), cost), f"{hold.id}.l{n}")
        for n, entry in enumerate(hold.entries)
        if is_measured(entry.metric)
    ]


def audit_event(
    kind: AuditKind,
    of: Hold | UsageEvent,
    at: float,
    reason: str = "",
    *,
    hold_id: str = "",
    units: int = 0,
    total_units: int = 0,
    heard_ms: int = 0,
) -> AuditEvent:
    """What happened to a hold, or to a usage event, which may name a hold."""
    transaction = isinstance(of, Hold) and is_transaction(of)
    return AuditEvent(
        kind=kind,
        request_id=of.request_id,
        hold_id=of.id if isinstance(of, Hold) else hold_id,
        tenant=of.tenant,
        work="kudos" if transaction else of.kind,
        model="" if transaction else of.model,
        units=units,
        total_units=total_units,
        heard_ms=heard_ms,
        reason=reason,
        at=at,
    )


def charged(charge: Charge, at: float) -> AuditEvent:
    """The outcome of a hold that its work is charged to."""
    hold = charge.hold
    return AuditEvent(
        kind="settled",
        request_id=hold.request_id,
        hold_id=hold.id,
        tenant=hold.tenant,
        work=hold.kind,
        model=hold.model,
        units=charge.units,
        total_units=charge.units if charge.total_units is None else charge.total_units,
        heard_ms=charge.heard_ms,
        kudos=min(charge.kudos, hold.kudos) if charge.kudos else 0,
        reason=charge.reason,
        at=at,
    )


def _counter(entry: HoldEntry) -> Counter:
    metric = KUDOS_METRIC if entry.metric == KUDOS_CREDIT_METRIC else entry.metric
    return Counter(entry.tenant, metric, entry.bucket)
