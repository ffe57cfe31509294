"""The increments by which a hold is taken, given back and settled, each under an id of the hold."""

from callboard_contracts.kudos import KUDOS_CREDIT_METRIC, KUDOS_METRIC
from callboard_contracts.quota import Hold, HoldEntry
from callboard_quota.domain.ports import Change, Counter


def late_id(hold: Hold) -> str:
    """The id under which a charge after a hold's end is decided."""
    return f"{hold.id}.late"


def is_transaction(hold: Hold) -> bool:
    """Whether the hold is a transaction in kudos, which gives them to an account when it is settled."""
    return any(entry.metric == KUDOS_CREDIT_METRIC for entry in hold.entries)


def held_kudos(hold: Hold) -> int:
    """The kudos that a hold has taken from an account."""
    return sum(entry.amount for entry in hold.entries if entry.metric == KUDOS_METRIC)


def given_kudos(hold: Hold) -> int:
    """The kudos that a transaction gives to an account."""
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


def settlement(hold: Hold, units: int, kudos: int) -> list[Change]:
    """The increments that charge a hold's work; jobs that ran are over, requests stay counted, gifts are given."""
    charged = {"units": units, KUDOS_METRIC: kudos}
    return [
        Change(_counter(entry), charged.get(entry.metric, 0) - entry.amount, f"{hold.id}.s{n}")
        for n, entry in enumerate(hold.entries)
        if entry.metric != "requests"
    ]


def late_charge(hold: Hold, units: int) -> list[Change]:
    """The increments that charge work whose hold had ended; kudos that went back are left where they are."""
    return [
        Change(_counter(entry), units, f"{hold.id}.l{n}")
        for n, entry in enumerate(hold.entries)
        if entry.metric == "units"
    ]


def _counter(entry: HoldEntry) -> Counter:
    metric = KUDOS_METRIC if entry.metric == KUDOS_CREDIT_METRIC else entry.metric
    return Counter(entry.tenant, metric, entry.bucket)
