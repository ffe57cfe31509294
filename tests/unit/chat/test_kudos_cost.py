import pytest

from callboard_chat.domain.kudos_cost import kudos_cost
from callboard_contracts.chat import ChatEnd, ChatJob, ChatRequest, EndReason, TokenUsage
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.kudos import KUDOS_METRIC, KudosTerms
from callboard_contracts.kudos_price import KudosSection
from callboard_contracts.quota import Hold, HoldEntry

pytestmark = pytest.mark.unit

KUDOS = KudosSection(enabled=True)
ERROR = ErrorInfo(code=ErrorCode.INTERRUPTED, message="broken")


def job(held: int, terms: KudosTerms | None) -> ChatJob:
    entries = (HoldEntry(tenant="k_1", metric=KUDOS_METRIC, bucket="ever", amount=held),)
    hold = Hold(request_id="r", tenant="k_1", kind="chat", model="owl", entries=entries, expires_at=2)
    request = ChatRequest(mode="completion", model="owl", prompt="An owl", max_output_tokens=40)
    return ChatJob(
        request_id="r", edge="e", tenant="k_1", hold=hold, created_at=1, deadline_at=2, request=request, kudos=terms
    )


def end(reason: EndReason = "stop", tokens: int = 20) -> ChatEnd:
    usage = TokenUsage(prompt_tokens=1024, completion_tokens=tokens)
    return ChatEnd(reason=reason, usage=usage, error=ERROR if reason == "error" else None)


TERMS = KudosTerms(billions=7.0, fee=2000)


@pytest.mark.parametrize(
    ("held", "terms", "ended", "earned", "cost"),
    [
        (10_000, TERMS, end(), None, 4_464),
        (10_000, TERMS, end(), 700, 2_700),
        (3_000, TERMS, end(), None, 3_000),
        (10_000, TERMS, end("cancelled", 10), None, 3_232),
        (10_000, TERMS, end("cancelled", 0), None, 0),
        (10_000, TERMS, end("error"), 700, 0),
        (10_000, None, end(), None, 0),
    ],
    ids=["tokens", "volunteer", "no more than held", "cancelled", "before a word", "failed", "costs none"],
)
def test_cost(held: int, terms: KudosTerms | None, ended: ChatEnd, earned: int | None, cost: int) -> None:
    assert kudos_cost(KUDOS, job(held, terms), ended, earned) == cost
