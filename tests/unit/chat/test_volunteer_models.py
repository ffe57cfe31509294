"""Which models of volunteers a pool offers, and how the places for them are shared."""

from typing import Any

import pytest

from callboard_chat.domain.models import ServedModel
from callboard_chat.domain.volunteer_models import VolunteerModels
from callboard_contracts.volunteers import MAX_OFFERED_MODELS, MAX_POOL_MODELS, ONLINE_S, VolunteerOffer

pytestmark = pytest.mark.unit

FULL = MAX_POOL_MODELS // MAX_OFFERED_MODELS
"""So many volunteers fill all places."""


class Stage:
    """Models of a pool with one that is configured, and volunteers by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        configured = {"owl": ServedModel("owl", "x/owl")}
        self.models = VolunteerModels(configured, "alpaca", lambda: self.now_s, names=("koboldcpp/owl",))

    def sees(self, worker: str, account: str, *models: str, **fields: Any) -> bool:
        base: dict[str, Any] = {"max_length": 80, "max_context_length": 1024}
        return self.models.see(
            VolunteerOffer(worker_id=worker, worker_name=worker, account=account, models=models, **{**base, **fields})
        )

    def fill(self, account: str) -> None:
        for number in range(FULL):
            self.sees(f"{account}{number}", account, *(f"{account}/{number}-{n}" for n in range(MAX_OFFERED_MODELS)))

    def of(self, account: str) -> int:
        return sum(name.startswith(f"{account}/") for name in self.models)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_accounts_share_the_places_evenly_once_there_are_none_left(stage: Stage) -> None:
    stage.fill("ann")
    assert stage.of("ann") == MAX_POOL_MODELS
    assert stage.sees("b", "ben", "ben/1", "ben/2")
    assert (stage.of("ann"), stage.of("ben")) == (MAX_POOL_MODELS - 2, 2)
    # What is let go is the newest; who asks again gets none of the others' places.
    assert "ann/0-0" in stage.models
    stage.fill("ann")
    assert (stage.of("ann"), stage.of("ben")) == (MAX_POOL_MODELS - 2, 2)
    stage.fill("ben")
    assert (stage.of("ann"), stage.of("ben")) == (MAX_POOL_MODELS // 2, MAX_POOL_MODELS // 2)
    stage.fill("ann")
    assert stage.of("ben") == MAX_POOL_MODELS // 2
    stage.fill("cat")
    shares = [stage.of(account) for account in ("ann", "ben", "cat")]
    assert sum(shares) == MAX_POOL_MODELS
    assert max(shares) - min(shares) <= 1


def test_one_account_alone_gets_no_more_than_all_places(stage: Stage) -> None:
    stage.fill("ann")
    assert not stage.sees("more", "ann", "ann/more")
    assert len(stage.models) == MAX_POOL_MODELS + 1


def test_configured_models_have_room_whatever_is_offered(stage: Stage) -> None:
    stage.fill("ann")
    assert stage.sees("a", "ann", "x/owl", "koboldcpp/owl", max_length=512)
    assert stage.models.lengths("x/owl") == stage.models.lengths("koboldcpp/owl") == (512, 1024)
    assert stage.of("ann") == MAX_POOL_MODELS


def test_a_model_that_several_accounts_offer_stays(stage: Stage) -> None:
    stage.fill("ann")
    last = f"ann/{FULL - 1}-{MAX_OFFERED_MODELS - 1}"
    stage.sees("b", "ben", last, "ben/1")
    assert last in list(stage.models)
    assert (stage.of("ann"), stage.of("ben")) == (MAX_POOL_MODELS - 1, 1)


def test_places_of_those_who_left_are_free(stage: Stage) -> None:
    stage.fill("ann")
    stage.now_s += ONLINE_S + 1
    stage.fill("ben")
    assert (stage.of("ann"), stage.of("ben")) == (0, MAX_POOL_MODELS)
