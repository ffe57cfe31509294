"""What the Horde's requesters are shown of a pool that shares its jobs with volunteers, and whom they may ask for."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from callboard_contracts.config import Config
from callboard_contracts.volunteers import VolunteerRecord
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.domain.catalogue import chat_catalogue
from callboard_edge.domain.volunteer_models import volunteer_pools
from callboard_edge.domain.volunteers import Volunteers
from callboard_edge.domain.workers import Workers
from callboard_edge.http.context import EdgeContext
from callboard_edge.protocols.horde.bodies import AsyncBody
from callboard_edge.protocols.horde.errors import Refusal
from callboard_edge.protocols.horde.pools import Pool, is_of_volunteers, pool_of, worker_count, worker_id
from callboard_edge.protocols.horde.requests import chosen_model, volunteer_terms
from callboard_edge.settings import edge_settings

pytestmark = pytest.mark.unit

CONFIG = Config.model_validate(
    {
        "chat": {
            "pools": {
                "barn": {"backend": "fake", "volunteers": "second"},
                "crowd": {"backend": "volunteers"},
                "own": {"backend": "fake"},
            },
            "models": {
                "owl": {"pool": "barn", "volunteer_models": ["koboldcpp/owl"], "engine_model": "owl.gguf"},
                "wren": {"pool": "crowd", "engine_model": "x/wren"},
                "crow": {"pool": "own"},
            },
        }
    }
)
BARN = worker_id("barn")
SHED = "11111111-0000-4000-8000-000000000001"
LOFT = "11111111-0000-4000-8000-000000000002"
MODELS = chat_catalogue(CONFIG.chat)


@pytest.fixture
async def context() -> EdgeContext:
    """An edge with a worker of the shared pool, and a volunteer of its model and one of another."""
    workers = Workers()
    offered = (OfferedModel(name="owl"),)
    workers.announce(WorkerInfo(id="w", service="chat", pool="barn", backend="fake", models=offered, slots=2, at=0))
    volunteers = Volunteers(None, lambda: 100.0)
    for worker, model in ((SHED, "koboldcpp/owl"), (LOFT, "x/wren")):
        volunteers.take(VolunteerRecord(id=worker, name=worker, account="k", models=(model,), created_at=0, seen_at=90))
    parts = SimpleNamespace(
        workers=workers,
        volunteers=volunteers,
        volunteer_jobs=SimpleNamespace(pools=volunteer_pools(CONFIG.chat)),
        chat_models=MODELS,
        settings=edge_settings(CONFIG, 1_000_000),
    )
    return cast("EdgeContext", parts)


def asked(**fields: Any) -> AsyncBody:
    return AsyncBody.model_validate({"prompt": "An owl", "models": ["owl"], **fields})


async def test_own_workers_and_volunteers_of_a_model_count_together(context: EdgeContext) -> None:
    counts = {
        model.name: worker_count(context, pool_of(context, model.pool, [model]), model) for model in MODELS.models
    }
    assert counts == {"owl": 2, "wren": 1, "crow": 0}
    assert [model.name for model in MODELS.models if is_of_volunteers(context, model)] == ["wren"]


async def test_hands_of_a_shared_pool_are_the_own_slots_and_the_threads_of_volunteers(context: EdgeContext) -> None:
    def stands(used: int, volunteer_threads: int) -> Pool:
        shared = WorkerInfo(
            id="w", service="chat", pool="barn", backend="fake", models=(), slots=2 + 32, slots_used=used, at=0
        )
        context.workers.announce(shared)
        shed = context.volunteers.get(SHED)
        assert shed is not None
        context.volunteers.take(shed.model_copy(update={"threads": volunteer_threads}))
        return pool_of(context, "barn")

    idle, full, over = stands(0, 3), stands(5, 3), stands(9, 3)
    # The slots in which jobs wait for either are no hands.
    assert (idle.own_slots, idle.slots, idle.has_free_slot, idle.held_back) == (2, 5, True, 0)
    assert (full.has_free_slot, full.held_back) == (False, 0)
    assert (over.has_free_slot, over.held_back) == (False, 4)
    # Thirty jobs ahead are six rounds of 80 tokens, at ten a second.
    assert over.wait_s(30, 0) == 48
    assert pool_of(context, "crowd").own_slots == 0
    assert pool_of(context, "own").threads is None


@pytest.mark.parametrize(
    ("fields", "own_engine", "workers"),
    [
        ({}, "may", ()),
        ({"workers": [BARN]}, "must", ()),
        ({"workers": [SHED]}, "may_not", (SHED,)),
        ({"workers": [BARN, SHED]}, "may", (SHED,)),
        ({"workers": [BARN], "worker_blacklist": True}, "may_not", ()),
        ({"workers": [SHED], "worker_blacklist": True}, "may", (SHED,)),
    ],
)
async def test_workers_that_are_asked_for_or_excluded_say_whether_the_own_engine_may_write(
    context: EdgeContext, fields: dict[str, Any], own_engine: str, workers: tuple[str, ...]
) -> None:
    body = asked(**fields)
    model = chosen_model(context, MODELS, body)
    assert model.name == "owl"
    terms = volunteer_terms(context, body, model, MODELS, 0)
    assert terms is not None
    assert (terms.own_engine, terms.workers) == (own_engine, workers)


async def test_worker_of_another_model_is_no_worker_of_this_one(context: EdgeContext) -> None:
    with pytest.raises(Refusal, match="None of the workers"):
        chosen_model(context, MODELS, asked(workers=[LOFT]))
    assert volunteer_terms(context, asked(models=["crow"]), MODELS.resolve("crow"), MODELS, 0) is None
