"""What the ledger says in the end, compared with what everybody was told."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from callboard_contracts.headers import INCREMENT, MSG_ID
from callboard_contracts.kudos import KUDOS_SCALE, reward_id
from callboard_contracts.kudos_price import KudosSection, fees
from callboard_contracts.quota import AuditEvent, UsageEvent
from tests.support.deployment import Deployment

FEE = fees(KudosSection(), accepts=True)


@dataclass
class Audit:
    """The figures of the ledger, and what is wrong with them; amounts are thousandths of a kudos."""

    events: int = 0
    outcomes: Counter[str] = field(default_factory=Counter[str])
    rewards: int = 0
    paid: int = 0
    paying: int = 0
    charged: int = 0
    fees: int = 0
    rewards_of_charged: int = 0
    short: int = 0
    """How many could not pay all of it, having too few kudos."""
    problems: list[str] = field(default_factory=list[str])


async def audit(deployment: Deployment) -> Audit:
    """Reads usage events, transactions and kudos: each reward has to be paid once, and each charge to be right."""
    found = Audit()
    events = await deployment.usage()
    found.events = len(events)
    found.outcomes.update(event.outcome for event in events)
    twice = [name for name, count in Counter(event.request_id for event in events).items() if count > 1]
    found.problems += [f"{name} has several usage events" for name in twice]
    transactions = await deployment.read("TRANSFERS")
    _check_rewards(found, events, [AuditEvent.model_validate_json(one.data) for one in transactions])
    await _check_charges(found, events, deployment)
    return found


def _check_rewards(found: Audit, events: Sequence[UsageEvent], transactions: Sequence[AuditEvent]) -> None:
    due = {reward_id(one.request_id): one.volunteer.reward for one in events if one.volunteer and one.volunteer.reward}
    found.rewards = sum(due.values())
    paid: dict[str, int] = {}
    for one in transactions:
        if one.reason != "reward" or one.kind != "settled":
            continue
        base = next((name for name in (one.request_id, one.request_id.rpartition("-")[0]) if name in due), "")
        if not base or base in paid:
            found.problems.append(f"reward {one.request_id} is paid twice or for nothing")
        paid[base] = one.kudos
    found.paid = sum(paid.values())
    for name, reward in due.items():
        if paid.get(name) != reward:
            found.problems.append(f"reward {name} of {reward} is paid as {paid.get(name)}")


async def _check_charges(found: Audit, events: Sequence[UsageEvent], deployment: Deployment) -> None:
    taken: dict[str, int] = {}
    for message in await deployment.read("KUDOS"):
        hold = message.headers.get(MSG_ID, "").rpartition(".")[0]
        taken[hold] = taken.get(hold, 0) + int(message.headers[INCREMENT])
    known: set[str] = set()
    for event in events:
        if event.hold is None:
            continue
        known.add(event.hold.id)
        held, spent = event.hold.kudos, taken.get(event.hold.id, 0)
        if spent != event.kudos:
            found.problems.append(f"{event.request_id} cost {event.kudos}, and {spent} were taken")
        if not event.kudos:
            continue
        earned = event.volunteer.reward if event.volunteer else 0
        found.charged += spent
        if event.kudos == earned + FEE:
            found.paying += 1
            found.fees += FEE
            found.rewards_of_charged += earned
        elif event.kudos == held < earned + FEE:
            found.short += 1
            found.charged -= spent
        else:
            found.problems.append(f"{event.request_id} cost {event.kudos} of {held} held; its reward is {earned}")
    for hold, amount in taken.items():
        if amount > 0 and hold not in known:
            found.problems.append(f"hold {hold} has taken {amount} for no usage event")
    if found.charged - found.fees != found.rewards_of_charged:
        found.problems.append(f"charged {found.charged} less fees {found.fees} is not {found.rewards_of_charged}")


def kudos(thousandths: int) -> str:
    """An amount as it is printed."""
    return f"{thousandths / KUDOS_SCALE:,.3f}"
