"""What texts cost in kudos, where the site counts them, and who must have the whole price."""

from collections.abc import Sequence
from dataclasses import dataclass

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError
from callboard_contracts.kudos import KUDOS_SCALE, KudosTerms
from callboard_contracts.kudos_price import fees, free_length, model_billions, needs_upfront, price
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.kudos_price import KudosPrice
from callboard_edge.domain.submission import QuotaRefused
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.protocols.horde.bodies import AsyncBody
from callboard_edge.protocols.horde.errors import Refusal
from callboard_edge.protocols.horde.pools import pool_of, waiting
from callboard_edge.protocols.horde.requests import lengths_of

_BALANCE = "key.kudos"
"""The limit that quota names where an account has too few."""


@dataclass(frozen=True, slots=True)
class Quote:
    """The price of each text of a request; none where the site counts no kudos."""

    prices: Sequence[KudosPrice] = ()
    free_length: int | None = None
    """The longest text that the requester need not have the price for; None where the length is not what it is for."""

    @property
    def kudos(self) -> float:
        """What all of it costs at most, as clients are shown it."""
        return kudos_shown(self.total)

    @property
    def total(self) -> int:
        """The same, in thousandths."""
        return sum(one.amount for one in self.prices)

    @property
    def upfront(self) -> bool:
        """Whether the requester must have all of it."""
        return any(one.upfront for one in self.prices)

    def of(self, number: int) -> KudosPrice | None:
        """The price of one text, by its place among those of the request."""
        return self.prices[number] if self.prices else None


async def quote(context: EdgeContext, body: AsyncBody, request: ChatRequest, model: ChatModel, count: int) -> Quote:
    """What so many texts cost, by the lengths that they can have here."""
    kudos = context.settings.kudos
    if not kudos.enabled:
        return Quote()
    context_tokens = request.context_tokens or min(lengths_of(body)[1], model.context_tokens)
    billions = model_billions(kudos, model.name) or model_billions(kudos, model.served_name)
    text = price(kudos, max_length=request.max_output_tokens, context_tokens=context_tokens, billions=billions)
    batch, live = await waiting(context, model.pool)
    pool = pool_of(context, model.pool)
    threads, queued = pool.slots, batch.waiting + live.waiting + pool.held_back
    slow_workers = body.slow_workers is not False
    upfront = needs_upfront(
        kudos, max_length=request.max_output_tokens, threads=threads, waiting=queued, slow_workers=slow_workers
    )
    free = free_length(kudos, threads=threads, waiting=queued) if slow_workers else None
    prices: list[KudosPrice] = []
    for number in range(count):
        fee = fees(kudos, accepts=number == 0)
        prices.append(KudosPrice(text + fee, KudosTerms(billions=billions, fee=fee), upfront))
    return Quote(prices, free)


def downgraded(body: AsyncBody, request: ChatRequest, quoted: Quote, kudos: int) -> ChatRequest | None:
    """The request shortened to what need not be paid for now, where its requester lets that be and has too few kudos.

    None where it stays as it is; `kudos` are the requester's, in thousandths.
    """
    length = quoted.free_length
    if not body.allow_downgrade or length is None or not quoted.upfront or kudos >= quoted.total:
        return None
    return request.model_copy(update={"max_output_tokens": min(request.max_output_tokens, length)})


def check_upfront(call: Call, quoted: Quote) -> None:
    """Refuses the anonymous key, which has no kudos, what must be paid for; raises Refusal."""
    if quoted.upfront and call.caller.key_digest is None:
        raise _upfront(f"{quoted.kudos:g} kudos are needed for it, and the anonymous key has none")


def explained(error: CallboardError) -> CallboardError:
    """The Horde's own refusal where it is for kudos that quota refused a hold."""
    if isinstance(error, QuotaRefused) and error.info.limit == _BALANCE:
        return _upfront(error.info.message.rstrip("."))
    return error


def kudos_shown(thousandths: int) -> float:
    """An amount as clients are shown it."""
    return thousandths / KUDOS_SCALE


def _upfront(reason: str) -> Refusal:
    message = f"Due to the length of this request, or the workers that it asks for, its kudos are needed now: {reason}."
    return Refusal(403, "KudosUpfront", message)
