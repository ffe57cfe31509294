"""Alerts fire for real faults and end with them: a real Prometheus watches real processes that are killed.

The rules are the product's own. Only how long a state must last (`for`) is shortened, to a second.
"""

import http.client
import json
import signal
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from callboard_contracts.streams import ATTEMPTS
from tests.deploy.bus_exporter import BusExporter
from tests.deploy.prometheus_server import Prometheus, program
from tests.support.children import wait_until
from tests.support.deployment import CHAT_MODEL, CHAT_POOL, Deployment, stub_config
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.processes import merged
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.live, pytest.mark.timeout(400), pytest.mark.slow]

SPARE_POOL, SPARE_MODEL = "spare", "heron"
TOKENS = 150


@dataclass(frozen=True, slots=True)
class Site:
    """Two pools for chat, each with an engine and a worker of its own, and what watches them."""

    deployment: Deployment
    prometheus: Prometheus
    main_engine: StubChat
    spare_engine: StubChat
    receiver: OtlpReceiver
    threads: ThreadPoolExecutor

    def chat(self, model: str) -> "Future[tuple[int, str]]":
        """Asks for a streamed reply in a thread; the result is the status and all of the answer."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        return self.threads.submit(self.post, "/v1/chat/completions", body)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """Sends a request and reads all of its answer."""
        connection = http.client.HTTPConnection(self.deployment.root_url().removeprefix("http://"), timeout=200)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    installed = program()
    if installed is None:
        pytest.skip("prometheus is missing; `apt-get install prometheus` brings it")
    folder = tmp_path_factory.mktemp("alerts")
    main, spare, speech, receiver = StubChat(), StubChat(), StubSpeech(), OtlpReceiver()
    with closing(main), closing(spare), closing(speech), receiver, ThreadPoolExecutor(4) as threads:
        for stub in (main, spare, speech):
            stub.start()
        pool = {"backend": "openai", "url": spare.url, "slots": 2, "resume": "prefill"}
        traces = {"site": {"traces_endpoint": receiver.url}}
        more = {**traces, "chat": {"pools": {SPARE_POOL: pool}, "models": {SPARE_MODEL: {"pool": SPARE_POOL}}}}
        deployment = Deployment(folder / "deployment", merged(stub_config(main.url, speech.url), more))
        exporter = BusExporter(deployment.nats)
        prometheus: Prometheus | None = None
        try:
            deployment.start(rooms=1)
            deployment.add_chat(SPARE_POOL).wait_ready()
            kinds = {
                "edge": deployment.edges,
                "chat": deployment.chats,
                "tts": deployment.speakers,
                "quota": deployment.quotas,
                "rooms": deployment.rooms,
            }
            targets = {
                f"callboard-{kind}": [f"127.0.0.1:{one.health_port}" for one in started]
                for kind, started in kinds.items()
            }
            targets["callboard-nats"] = [exporter.start()]
            prometheus = Prometheus(installed, folder, targets, alert_after="1s")
            prometheus.wait_ready()
            prometheus.wait_evaluated()
            yield Site(deployment, prometheus, main, spare, receiver, threads)
            deployment.stop()
        finally:
            if prometheus:
                prometheus.stop()
            exporter.close()
            deployment.abandon()


def test_dead_pool_beside_a_healthy_one_alerts_and_its_job_counts_as_waiting(site: Site) -> None:
    prometheus, worker = site.prometheus, site.deployment.chats[1]
    assert not any(labels.get("pool") for labels in prometheus.firing())
    site.spare_engine.plays(numbered(TOKENS, delay_s=0.05))
    begun = site.deployment.messages_in(ATTEMPTS)
    reply = site.chat(SPARE_MODEL)
    wait_until(lambda: site.deployment.messages_in(ATTEMPTS) > begun, 20, "the worker has begun", interval_s=0.05)
    worker.running.kill()
    prometheus.wait_fires("CallboardProcessDown", job="callboard-chat", instance=f"127.0.0.1:{worker.health_port}")
    prometheus.wait_fires("CallboardJobsWaitUnserved", job="callboard-chat", pool=SPARE_POOL)
    prometheus.wait_fires("CallboardPoolWithoutWorkers", service="chat", pool=SPARE_POOL)
    (shown,) = prometheus.query('sum (ALERTS{alertname="CallboardJobsWaitUnserved",alertstate="firing"})')
    assert float(shown["value"][1]) == 1
    assert site.chat(CHAT_MODEL).result(60)[0] == 200
    assert {labels["pool"] for labels in prometheus.firing() if "pool" in labels} == {SPARE_POOL}

    worker.start()
    worker.wait_ready()
    status, text = reply.result(100)
    assert status == 200
    assert text.rstrip().endswith("[DONE]")
    prometheus.wait_fires("CallboardWorkerDied", job="callboard-chat", reason="killed")
    for alert in ("CallboardProcessDown", "CallboardJobsWaitUnserved", "CallboardPoolWithoutWorkers"):
        prometheus.wait_quiet(alert)
    site.spare_engine.reset()


def test_dead_engine_of_one_pool_alerts_for_this_pool_alone(site: Site) -> None:
    site.main_engine.pause()
    try:
        site.prometheus.wait_fires("CallboardEngineDown", job="callboard-chat", pool=CHAT_POOL, backend="openai")
        assert not site.prometheus.fires("CallboardEngineDown", pool=SPARE_POOL)
    finally:
        site.main_engine.start()
    site.prometheus.wait_quiet("CallboardEngineDown")


def test_prometheus_keeps_the_traces_that_histograms_name(site: Site) -> None:
    assert site.chat(CHAT_MODEL).result(60)[0] == 200

    def kept() -> set[str]:
        found = site.prometheus.api(
            "query_exemplars",
            query="callboard_edge_time_to_first_byte_seconds_bucket",
            start=str(time.time() - 600),
            end=str(time.time() + 1),
        )
        return {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}

    def both() -> set[str]:
        return kept() & {span.trace_id for span in site.receiver.spans}

    wait_until(lambda: bool(both()), 30, "the trace of an exemplar came", interval_s=0.2)


def test_busy_pool_whose_jobs_wait_is_no_unserved_one(site: Site) -> None:
    site.spare_engine.plays(numbered(TOKENS, delay_s=0.05))
    replies = [site.chat(SPARE_MODEL) for _ in range(4)]
    full = f'callboard:pool_pulls:sum{{pool="{SPARE_POOL}"}} == 0 and callboard:pool_jobs:sum > 2'
    wait_until(lambda: bool(site.prometheus.query(full)), 30, "jobs wait for a busy pool", interval_s=0.1)
    site.prometheus.wait_evaluated()
    assert not site.prometheus.fires("CallboardJobsWaitUnserved")
    assert [reply.result(100)[0] for reply in replies] == [200] * 4
    site.spare_engine.reset()


def test_turns_that_fail_alert(site: Site) -> None:
    site.main_engine.plays(Script(error_at=2))
    for n in range(8):
        said = {"join_key": f"stage{n}", "username": "Ann", "message": "Hello", "charactername": "Owl"}
        assert site.post("/ait/postMessage", {**said, "message_id": uuid4().hex})[0] == 425
    site.prometheus.wait_fires("CallboardTurnsFail")
    site.main_engine.reset()


def test_process_that_stands_still_again_and_again_alerts(site: Site) -> None:
    rooms = site.deployment.rooms[0].running
    # More than one in a hundred of the measurements of five minutes must be late.
    for _ in range(12):
        rooms.signal(signal.SIGSTOP)
        time.sleep(0.8)
        rooms.signal(signal.SIGCONT)
        time.sleep(0.1)
    site.prometheus.wait_fires("CallboardEventLoopBlocked", job="callboard-rooms")


def test_quota_that_was_killed_alerts(site: Site) -> None:
    quota = site.deployment.quotas[0]
    quota.running.kill()
    assert site.chat(CHAT_MODEL).result(60)[0] == 503
    site.prometheus.wait_fires("CallboardProcessDown", job="callboard-quota")
    site.prometheus.wait_evaluated()
    assert site.chat(CHAT_MODEL).result(60)[0] == 503
    site.prometheus.wait_fires("CallboardQuotaUnreachable")
    site.prometheus.wait_fires("CallboardErrorBudgetBurn", severity="critical")
    quota.start()
    quota.wait_ready()
    site.prometheus.wait_quiet("CallboardProcessDown")
    assert site.chat(CHAT_MODEL).result(60)[0] == 200
