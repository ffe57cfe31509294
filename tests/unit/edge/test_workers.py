"""What the edge makes of the workers' announcements: pools, models, voices and sampling."""

import json
import time
from typing import Literal

import pytest
from prometheus_client import CollectorRegistry

from callboard_contracts.config import Config
from callboard_contracts.workers import OfferedModel, PoolRecord, ProcessRecord, WorkerInfo
from callboard_edge.domain import workers
from callboard_edge.domain.waiting_jobs import WaitingJobs
from callboard_edge.domain.workers import Workers
from callboard_edge.metrics import EdgeMetrics
from tests.unit.edge.harness import EdgeHarness, asking, frames, running

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
OFFER = OfferedModel(name="owl", sampling=("temperature", "top_p", "seed"))


def announcement(worker_id: str = "w1", pool: str = "main") -> WorkerInfo:
    return WorkerInfo(id=worker_id, service="chat", pool=pool, backend="fake", models=(OFFER,), slots=2, at=0)


async def test_worker_that_is_silent_is_forgotten_and_its_pool_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Workers()
    assert known.state("chat", "main") == "awake"
    known.mark_loaded(0)
    assert known.state("chat", "main") == "unseen"
    known.announce(announcement())
    known.record("chat", "main", PoolRecord(last_started_at=0, models=(OFFER,)))
    assert known.state("chat", "main") == "awake"
    assert known.state("tts", "main") == "unseen"
    monkeypatch.setattr(workers, "ANNOUNCE_LIFE_S", -1)
    known.announce(announcement())
    assert known.of("chat", "main") == []
    assert known.state("chat", "main") == "asleep"
    assert known.model("chat", "main", "owl") == OFFER
    assert known.model("chat", "main", "wren") is None


async def test_what_a_pool_offers_goes_with_the_worker_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Workers()
    known.announce(announcement("w1"))
    monkeypatch.setattr(workers, "ANNOUNCE_LIFE_S", 100)
    other = OfferedModel(name="wren", tokens_per_byte=0.25)
    known.announce(announcement("w2").model_copy(update={"models": (other,)}))
    assert known.model("chat", "main", "owl") == OFFER
    assert known.tokens_per_byte("chat", "main", "wren") == 0.25
    later = time.monotonic() + 50
    monkeypatch.setattr(workers, "monotonic", lambda: later)
    assert [info.id for info in known.of("chat", "main")] == ["w2"]
    assert known.model("chat", "main", "owl") is None
    assert known.tokens_per_byte("chat", "main", "wren") == 0.25
    known.forget("w2")
    assert known.model("chat", "main", "wren") is None


async def test_edge_counts_the_streams_that_are_sent_by_route() -> None:
    registry = CollectorRegistry()
    metrics = EdgeMetrics(registry)

    def count() -> float | None:
        return registry.get_sample_value("callboard_edge_open_streams", {"route": "chat"})

    with metrics.streaming("chat"), metrics.streaming("chat"):
        assert count() == 2
    assert count() == 0


async def test_edge_counts_the_workers_of_each_pool_of_the_configuration() -> None:
    chat = {"main": {"backend": "fake"}, "night": {"backend": "fake", "may_sleep": True}}
    config = Config.model_validate({"chat": {"pools": chat}, "tts": {"pools": {"booth": {"backend": "fake"}}}})
    registry, known = CollectorRegistry(), Workers()
    EdgeMetrics(registry).watch_pools(config, known, WaitingJobs())

    def count(service: str, pool: str, may_sleep: str) -> float | None:
        labels = {"service": service, "pool": pool, "may_sleep": may_sleep}
        return registry.get_sample_value("callboard_edge_pool_workers", labels)

    known.announce(announcement("w1"))
    known.announce(announcement("w2"))
    assert count("chat", "main", "false") == 2
    known.forget("w1")
    assert count("chat", "main", "false") == 1
    assert count("chat", "night", "true") == 0
    assert count("tts", "booth", "false") == 0
    assert registry.get_sample_value("callboard_edge_oldest_job_seconds", {"service": "chat", "pool": "main"}) == 0


async def test_pool_asleep_a_pool_never_seen_and_no_model_are_three_answers(harness: EdgeHarness) -> None:
    harness.known.mark_loaded(0)
    status, headers, body = await harness.post(CHAT, asking())
    assert (status, json.loads(body)["error"]["code"]) == (503, "no_worker")
    assert headers["Retry-After"] == "5"
    assert harness.quota.asked == []
    status, _, body = await harness.post(CHAT, asking(model="nobody"))
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    harness.known.record("chat", "main", PoolRecord(last_started_at=0))
    worker = harness.plays(frames("x"))
    status, _, _ = await harness.post(CHAT, asking())
    assert status == 200
    await worker
    async with harness.session.get(harness.url + "/readyz") as reply:
        assert (await reply.json())["pools"] == {"chat/main": "asleep", "tts/booth": "unseen"}


async def test_models_of_a_pool_that_was_never_seen_are_not_listed(harness: EdgeHarness) -> None:
    async def listed() -> list[str]:
        async with harness.session.get(harness.url + "/v1/models") as reply:
            return [model["id"] for model in (await reply.json())["data"]]

    assert await listed() == ["owl", "wren/tiny", "magpie", "parrot", "ear"]
    harness.known.mark_loaded(0)
    harness.known.announce(announcement())
    assert await listed() == ["owl", "wren/tiny", "magpie"]


def failed(state: Literal["running", "failed"] = "failed") -> ProcessRecord:
    return ProcessRecord(name="chat-main", state=state, restarts=4, service="chat", pool="main")


async def test_pool_whose_worker_is_not_started_again_is_refused_and_said(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.known.mark_loaded(0)
    harness.known.record("chat", "main", PoolRecord(last_started_at=0))
    harness.known.supervise(failed())
    status, _, body = await harness.post(CHAT, asking())
    assert (status, json.loads(body)["error"]["code"]) == (503, "no_worker")
    assert "not started again" in json.loads(body)["error"]["message"]
    async with harness.session.get(harness.url + "/readyz") as reply:
        assert await reply.json() == {
            "status": "degraded",
            "pools": {"chat/main": "failed", "tts/booth": "unseen"},
            "processes": {"chat-main": {"state": "failed", "restarts": 4}},
        }
    async with harness.session.get(harness.url + "/v1/models") as reply:
        assert [model["id"] for model in (await reply.json())["data"]] == []
    # A worker of the pool that runs elsewhere serves it all the same.
    harness.known.announce(announcement())
    assert harness.known.state("chat", "main") == "awake"
    harness.known.forget("w1")
    harness.known.supervise(failed("running"))
    assert harness.known.state("chat", "main") == "asleep"
    monkeypatch.setattr(workers, "ANNOUNCE_LIFE_S", -1)
    harness.known.supervise(failed())
    assert harness.known.processes() == []


async def test_pool_that_may_sleep_waits_for_its_first_worker() -> None:
    sleepy = {"chat": {"pools": {"main": {"backend": "fake", "may_sleep": True}}}}
    async with running(sleepy) as harness:
        harness.known.mark_loaded(0)
        worker = harness.plays(frames("x"))
        status, _, _ = await harness.post(CHAT, asking())
        assert status == 200
        await worker


async def test_sampling_that_the_engine_does_not_honour_is_left_out_or_refused(harness: EdgeHarness) -> None:
    harness.known.announce(announcement())
    worker = harness.plays(frames("x"))
    status, _, _ = await harness.post(CHAT, asking(temperature=0.5, top_k=3, min_p=0.1, stop="x"))
    assert status == 200
    sampling = (await worker).request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.min_p, sampling.stop) == (0.5, None, None, ("x",))
    status, _, body = await harness.post(CHAT, asking(logit_bias={"5": 1}))
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (400, "unsupported", "logit_bias")


async def test_request_without_a_model_gets_the_default_one() -> None:
    async with running({"chat": {"default_model": "owl"}}) as harness:
        body = {key: value for key, value in asking().items() if key != "model"}
        worker = harness.plays(frames("x"))
        status, _, answer = await harness.post(CHAT, body)
        assert (status, json.loads(answer)["model"]) == (200, "owl")
        assert (await worker).request.model == "owl"


async def test_request_without_a_model_and_without_a_default_names_the_field(harness: EdgeHarness) -> None:
    status, _, body = await harness.post(CHAT, {"messages": [{"role": "user", "content": "x"}]})
    error = json.loads(body)["error"]
    assert (status, error["param"], error["message"]) == (400, "model", "Missing required field: 'model'.")
