"""A kind of limit is one object: a new one is enforced as soon as it is registered."""

from collections.abc import Generator

import pytest

from callboard_contracts.config import LimitsSection
from callboard_quota.domain.limit_kinds import LIMIT_KINDS, METRICS, LimitKind, Metric, register
from callboard_quota.domain.windows import HOUR_S, SlidingHours, hour_bucket
from tests.unit.quota.interleaving import NOON
from tests.unit.quota.test_reservations import SETTINGS, limit_of, make_harness

pytestmark = pytest.mark.unit


class HourlyTier(LimitsSection):
    """A tier with the setting of the new kind."""

    requests_per_hour: int | None = None


@pytest.fixture
def requests_per_hour() -> Generator[None]:
    """A kind of limit that the product does not have."""
    metric = Metric("hourly_requests", hour_bucket, "all")
    kind = register(LimitKind("requests_per_hour", metric, SlidingHours(1), "the requests of an hour"))
    yield
    del LIMIT_KINDS[kind.name], METRICS[metric.name]


@pytest.mark.usefixtures("requests_per_hour")
def test_registered_kind_is_enforced() -> None:
    harness = make_harness(
        SETTINGS.model_copy(update={"tiers": {**SETTINGS.tiers, "standard": HourlyTier(requests_per_hour=2)}})
    )
    assert [harness.reserve(1).hold is not None for _ in range(3)] == [True, True, False]
    refused = harness.reserve(1)
    assert limit_of(refused) == "key.requests_per_hour"
    assert refused.error is not None
    assert refused.error.message == "The limit of this API key for the requests of an hour (2) is reached."
    harness.clock.at += refused.error.retry_after_s or 0.0
    assert harness.clock.at == NOON // HOUR_S * HOUR_S + 2 * HOUR_S
    assert harness.reserve(1).hold


def test_every_setting_of_a_tier_is_a_kind_of_limit() -> None:
    assert set(LimitsSection.model_fields) == {kind.name for kind in LIMIT_KINDS.values() if not kind.is_balance}
