"""The rules by which usage events count for nothing: the same for settlement, verification and reconciliation."""

from callboard_contracts.quota import Hold, UsageEvent
from callboard_contracts.subjects import token
from callboard_quota.domain.amounts import is_sane
from callboard_quota.domain.ports import AccountStore
from callboard_quota.domain.tenants import ACCOUNT_MARK, ADDRESS_MARK, ANONYMOUS, Secret

UNHELD_AHEAD_S = 3600.0
UNHELD_BEHIND_S = 2 * 86_400.0
"""Work without a hold is charged by its own time, which lies so close to the time at which its event was stored."""


def holds_of(event: UsageEvent) -> list[Hold]:
    """All holds that were taken for an event's work."""
    return [event.hold, *event.extensions] if event.hold else list(event.extensions)


class EventRules:
    """Judges events one by one; repetition is not looked at."""

    def __init__(self, secret: Secret, accounts: AccountStore) -> None:
        self._secret = secret
        self._accounts = accounts

    async def rejection_reason(self, event: UsageEvent, stored_at: float) -> str:
        """The rule by which an event counts for nothing, or an empty text; raises StoreUnavailable."""
        try:
            token(event.request_id)
            token(event.tenant)
        except ValueError:
            return "not_a_token"
        if not is_sane(event.work):
            return "absurd_amount"
        holds = holds_of(event)
        for hold in holds:
            if (hold.request_id, hold.kind, hold.tenant) != (event.request_id, event.kind, event.tenant):
                return "other_hold"
            if not self._secret.is_ours(hold):
                return "unknown_hold"
        return "" if holds else await self._why_unheld_ignored(event, stored_at)

    async def _why_unheld_ignored(self, event: UsageEvent, stored_at: float) -> str:
        if not stored_at - UNHELD_BEHIND_S <= event.at <= stored_at + UNHELD_AHEAD_S:
            return "absurd_time"
        if event.tenant.startswith(ACCOUNT_MARK):
            known = await self._accounts.by_id(event.tenant) is not None
        else:
            known = event.tenant.startswith((ADDRESS_MARK, ANONYMOUS))
        return "" if known else "unknown_tenant"
