"""The rules by which usage events are ignored, shared by settlement, verification and reconciliation."""

from callboard_contracts.quota import Hold, UsageEvent
from callboard_contracts.subjects import token
from callboard_quota.domain.amounts import is_plausible
from callboard_quota.domain.ports import AccountStore
from callboard_quota.domain.tenants import ACCOUNT_MARK, ADDRESS_MARK, ANONYMOUS, Secret

UNHELD_AHEAD_S = 3600.0
UNHELD_BEHIND_S = 2 * 86_400.0
"""Work without a hold is charged by its own time, which must be this close to the time at which it was stored."""


def holds_of(event: UsageEvent) -> list[Hold]:
    """All holds that were taken for an event's work."""
    return [event.hold, *event.extensions] if event.hold else list(event.extensions)


class EventRules:
    """Checks single events; whether an event is a repeat is for others to say."""

    def __init__(self, secret: Secret, accounts: AccountStore) -> None:
        self._secret = secret
        self._accounts = accounts

    async def rejection_reason(self, event: UsageEvent, stored_at: float) -> str:
        """The rule by which an event is ignored, or an empty text; raises StoreUnavailable."""
        try:
            token(event.request_id)
            token(event.tenant)
        except ValueError:
            return "not_a_token"
        if not is_plausible(event.work):
            return "absurd_amount"
        holds = holds_of(event)
        for hold in holds:
            if (hold.request_id, hold.kind, hold.tenant) != (event.request_id, event.kind, event.tenant):
                return "other_hold"
            if not self._secret.is_ours(hold):
                return "unknown_hold"
        return "" if holds else await self._unheld_rejection_reason(event, stored_at)

    async def _unheld_rejection_reason(self, event: UsageEvent, stored_at: float) -> str:
        if not stored_at - UNHELD_BEHIND_S <= event.at <= stored_at + UNHELD_AHEAD_S:
            return "absurd_time"
        if event.tenant.startswith(ACCOUNT_MARK):
            known = await self._accounts.by_id(event.tenant) is not None
        else:
            known = event.tenant.startswith((ADDRESS_MARK, ANONYMOUS))
        return "" if known else "unknown_tenant"
