"""Pays volunteers for having been there, where the site counts kudos."""

import logging
from collections.abc import Callable

from callboard_contracts.kudos import KudosUptimeRequest
from callboard_contracts.kudos_price import KudosSection, listed_billions, model_billions, uptime_period, uptime_reward
from callboard_contracts.volunteers import VolunteerRecord
from callboard_edge.domain.ports import Background, QuotaClient

log = logging.getLogger(__name__)


class UptimeRewards:
    """Has quota pay a volunteer each time that its uptime has grown by a period.

    One that has written nothing yet, or takes no jobs, earns nothing by waiting. A model's size counts as the site has
    set it, and as the model's name tells it where an operator trusts the volunteer: to wait under a great name costs
    nothing.
    """

    def __init__(self, kudos: KudosSection, quota: QuotaClient, background: Background) -> None:
        self._kudos = kudos
        self._quota = quota
        self._background = background

    def seen(self, before: VolunteerRecord, record: VolunteerRecord, paid: Callable[[int], None]) -> None:
        """Takes in that a volunteer is there, by its record before and now; `paid` is told what it earned by that."""
        kudos = self._kudos
        periods = [int(one.uptime_s // kudos.uptime_period_s) for one in (before, record)]
        if not kudos.enabled or periods[0] == periods[1] or record.maintenance or record.paused or not record.fulfilled:
            return
        billions = model_billions if record.trusted else listed_billions
        sizes = [size for name in record.models if (size := billions(kudos, name)) is not None]
        request = KudosUptimeRequest(
            worker=record.id,
            account=record.account,
            period=uptime_period(kudos, record.seen_at),
            amount=uptime_reward(
                kudos, context_tokens=record.max_context_length, billions=max(sizes) if sizes else None
            ),
        )
        if request.amount:
            self._background.start(self._pay(request, paid), "pay-uptime")

    async def _pay(self, request: KudosUptimeRequest, paid: Callable[[int], None]) -> None:
        reply = await self._quota.pay_uptime(request)
        if reply.error is not None:
            # It is not tried again, since the period may be over by then.
            log.warning("uptime_not_paid", extra={"worker": request.worker, "code": reply.error.code.value})
        elif not reply.repeated:
            paid(request.amount)
