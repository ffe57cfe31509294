"""No dashboard is empty: a real Prometheus scrapes real services under load, and every panel's query is run."""

import asyncio
import contextlib
import http.client
import json
import math
import re
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from callboard_contracts.errors import ErrorCode
from tests.deploy import voice_load
from tests.deploy.bus_exporter import BusExporter
from tests.deploy.known_metrics import OBSERVABILITY, TARGET_LABELS, filled, own_metrics
from tests.deploy.prometheus_server import Prometheus, program
from tests.support.children import wait_until
from tests.support.deployment import CHAT_MODEL, SPEECH_MODEL, VOICES, Deployment, stub_config
from tests.support.processes import merged
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script
from tests.support.stub_speech import SpeechScript, StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.live, pytest.mark.timeout(600), pytest.mark.slow]

DASHBOARDS = sorted((OBSERVABILITY / "dashboards").glob("*.json"))
NO_GPU, NO_CLUSTER = "needs NVIDIA's exporter, and a GPU", "needs the exporters of a cluster"
EXPECTED_EMPTY = {
    "speech: Characters left out": "the engine reads texts by itself",
    "chat: Embedding duration": "no model here embeds",
    "chat: Shared jobs": "no pool here shares its jobs with volunteers",
    **{
        f"capacity: {title}": NO_GPU
        for title in ("GPU utilisation", "GPU memory", "GPU power", "GPU temperature", "GPU errors", "Work by GPU")
    },
    **{
        f"capacity: {title}": NO_CLUSTER
        for title in (
            "Replicas wanted and ready",
            "Unschedulable pods",
            "Container restarts",
            "Killed for memory",
            "CPU throttling",
            "Scalers active",
            "Scaling value",
            "Scaler errors",
        )
    },
}
"""The panels that show nothing here, and why; every other panel must show data."""
LOAD_ROUNDS = 3
SECRET = "a word that only the prompt holds"


class Caller:
    """A client that asks over plain HTTP, one request at a time."""

    def __init__(self, deployment: Deployment, key: str) -> None:
        self._address = deployment.root_url().removeprefix("http://")
        self._key = key

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, leave_after: int | None = None) -> int:
        """Sends a request and reads the answer, or only its first bytes; returns the status."""
        connection = http.client.HTTPConnection(self._address, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            with contextlib.suppress(http.client.IncompleteRead):
                answer.read(leave_after)
            return answer.status
        finally:
            connection.close()

    def chat(self, *, stream: bool = True, leave_after: int | None = None, **more: Any) -> int:
        body = {"model": CHAT_MODEL, "stream": stream, "messages": [{"role": "user", "content": SECRET}], **more}
        return self.ask("POST", "/v1/chat/completions", body, leave_after=leave_after)

    def speak(self, text: str = "Now is the winter of our discontent.", *, leave_after: int | None = None) -> int:
        body = {"model": SPEECH_MODEL, "voice": VOICES[0], "input": text, "response_format": "wav"}
        return self.ask("POST", "/v1/audio/speech", body, leave_after=leave_after)


def one_round(caller: Caller, poor: Caller, chat: StubChat, speech: StubSpeech) -> None:
    """A little of everything that the dashboards show."""
    assert [caller.chat() for _ in range(5)] == [200] * 5
    assert caller.chat(stream=False) == 200
    assert caller.ask("POST", "/v1/completions", {"model": CHAT_MODEL, "prompt": SECRET, "max_tokens": 8}) == 200
    assert caller.speak() == 200
    assert caller.ask("GET", "/v1/models") == 200
    assert caller.chat(temperature=-1) == 400
    assert poor.chat() == 429
    said = {"join_key": "stage", "username": "Ann", "message": SECRET, "charactername": "Owl"}
    assert caller.ask("POST", "/ait/postMessage", {**said, "message_id": uuid4().hex}) == 425
    assert caller.ask("GET", "/ait/stream/stage", leave_after=20_000) == 200

    chat.plays(Script(fail_status=503, fail_times=1))
    assert caller.chat() == 200
    chat.plays(Script(error_at=2))
    assert caller.chat(stream=False) >= 500
    chat.plays(numbered(200, delay_s=0.02))
    assert caller.chat(leave_after=64) == 200
    chat.reset()

    speech.script = SpeechScript(fail_next=1, fail_status=503)
    assert caller.speak() == 200
    speech.script = SpeechScript(chunk_delay_s=0.3)
    assert (
        caller.speak(
            "A long line that is cancelled before its end because the client disconnects. " * 3, leave_after=64
        )
        == 200
    )
    speech.reset()


def crash(deployment: Deployment, caller: Caller, chat: StubChat) -> None:
    """Kills the chat worker in the middle of a reply, which goes on when there is a worker again."""
    worker = deployment.chats[0]
    chat.plays(numbered(100, delay_s=0.02))
    with ThreadPoolExecutor(1) as threads:
        status = threads.submit(caller.chat)
        wait_until(lambda: chat.active > 0, 20, "the engine writes", interval_s=0.02)
        worker.running.kill()
        chat.reset()
        worker.start()
        worker.wait_ready()
        assert status.result(60) == 200


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Prometheus, Deployment]]:
    """A deployment after a few rounds of load, and the Prometheus that watched it."""
    installed = program()
    if installed is None:
        pytest.skip("prometheus is missing; `apt-get install prometheus` brings it")
    folder = tmp_path_factory.mktemp("watched")
    chat, speech = StubChat(), StubSpeech()
    chat.start()
    speech.start()
    config = merged(stub_config(chat.url, speech.url), voice_load.CONFIG)
    deployment = Deployment(folder / "deployment", config, sync="processes")
    exporter = BusExporter(deployment.nats)
    prometheus: Prometheus | None = None
    try:
        deployment.start(rooms=1)
        for one in (deployment.add_chat("lent"), deployment.add_recogniser()):
            one.wait_ready()
        targets = {
            f"callboard-{kind}": [f"127.0.0.1:{service.health_port}"]
            for kind, service in zip(
                ("edge", "chat", "tts", "stt", "quota", "rooms"),
                (
                    deployment.edges[0],
                    deployment.chats[0],
                    deployment.speakers[0],
                    deployment.recognisers[0],
                    deployment.quotas[0],
                    deployment.rooms[0],
                ),
                strict=True,
            )
        }
        targets["callboard-chat"].append(f"127.0.0.1:{deployment.chats[1].health_port}")
        prometheus = Prometheus(installed, folder, {**targets, "callboard-nats": [exporter.start()]})
        prometheus.wait_ready()
        caller, poor = (
            Caller(deployment, deployment.create_key("standard")),
            Caller(deployment, deployment.create_key("tiny")),
        )
        lender = deployment.create_key("standard")
        deployment.command("keys", "create", "--name", "ann")
        deployment.command("keys", "create", "--name", "bob")
        deployment.command("kudos", "earn", "ann", "20")
        deployment.command("kudos", "transfer", "ann", "bob", "5")
        for _ in range(LOAD_ROUNDS):
            one_round(caller, poor, chat, speech)
            asyncio.run(voice_load.speak_and_lend(deployment, lender))
            prometheus.wait_scraped()
        crash(deployment, caller, chat)
        one_round(caller, poor, chat, speech)
        asyncio.run(voice_load.speak_and_lend(deployment, lender))
        deployment.wait_idle()
        prometheus.wait_scraped()
        prometheus.wait_evaluated()
        yield prometheus, deployment
        deployment.stop()
    finally:
        if prometheus:
            prometheus.stop()
        exporter.close()
        deployment.abandon()
        chat.close()
        speech.close()


def panels() -> dict[str, list[str]]:
    """The queries of each panel."""
    found: dict[str, list[str]] = {}
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            if panel["type"] != "row":
                found[f"{path.stem}: {panel['title']}"] = [target["expr"] for target in panel["targets"]]
    return found


def live(expr: str) -> str:
    """A query as Grafana would send it, with a window that fits the length of the load."""
    return filled(expr.replace("$__rate_interval", "45s"))


def has_numbers(samples: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(sample["value"][1])) for sample in samples)


def test_every_panel_shows_data(watched: tuple[Prometheus, Deployment]) -> None:
    prometheus, _ = watched
    assert {target["health"] for target in prometheus.api("targets", state="active")["activeTargets"]} == {"up"}
    empty: dict[str, list[str]] = {}
    for panel, queries in panels().items():
        without = [query for query in queries if not has_numbers(prometheus.query(live(query)))]
        if without:
            empty[panel] = without
    assert {panel: queries for panel, queries in empty.items() if panel not in EXPECTED_EMPTY} == {}
    assert set(EXPECTED_EMPTY) == set(empty), "these panels show data after all"


def test_every_annotation_and_variable_finds_data(watched: tuple[Prometheus, Deployment]) -> None:
    prometheus, _ = watched
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text("utf-8"))
        for annotation in dashboard["annotations"]["list"]:
            assert has_numbers(prometheus.query(live(annotation["expr"])))
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query" and variable["name"] != "namespace":
                found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
                assert found is not None
                metric, label = found.groups()
                assert prometheus.api(f"label/{label}/values", **{"match[]": metric})


def test_every_rule_can_be_computed_and_recorded_series_are_there(watched: tuple[Prometheus, Deployment]) -> None:
    prometheus, _ = watched
    rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert {name for name in recorded if not prometheus.query(name)} == set()


def test_a_healthy_installation_alerts_only_on_the_errors_that_were_caused(
    watched: tuple[Prometheus, Deployment],
) -> None:
    prometheus, _ = watched
    firing = {alert["labels"]["alertname"] for alert in prometheus.api("alerts")["alerts"]}
    assert firing <= {"CallboardErrorBudgetBurn", "CallboardWorkerDied"}


def test_kudos_that_moved_are_counted(watched: tuple[Prometheus, Deployment]) -> None:
    prometheus, _ = watched
    moved = prometheus.query('sum by (kind) (callboard_quota_kudos_total{kind=~"earn|transfer"})')
    assert {each["metric"]["kind"]: float(each["value"][1]) for each in moved} == {"earn": 20_000, "transfer": 5000}


def test_labels_hold_closed_sets_and_nothing_of_a_client(watched: tuple[Prometheus, Deployment]) -> None:
    prometheus, _ = watched
    names = "|".join(metric.name for metric in own_metrics())
    ours = f'{{__name__=~"({names})(_bucket|_sum|_count)?"}}'
    for label in {label for metric in own_metrics() for label in metric.labels} - TARGET_LABELS:
        values = prometheus.api(f"label/{label}/values", **{"match[]": ours})
        assert len(values) <= 32, label
        for value in values:
            assert re.fullmatch(r"[a-z0-9_./:-]{1,40}", value), f"{label}={value!r}"
            assert not re.search(r"\d{1,3}(\.\d{1,3}){3}|cb_|[0-9a-f]{16}", value), f"{label}={value!r}"
    codes = prometheus.api("label/code/values", **{"match[]": "callboard_edge_errors_total"})
    assert set(codes) <= {code.value for code in ErrorCode}
    assert {"invalid_request", "quota_exceeded"} <= set(codes)


def test_metrics_count_what_was_requested_and_hold_no_prompt(watched: tuple[Prometheus, Deployment]) -> None:
    prometheus, deployment = watched
    (answered,) = prometheus.query('sum(callboard_edge_requests_total{route="speech"})')
    assert float(answered["value"][1]) == 3 * (LOAD_ROUNDS + 1)
    text = json.dumps([service.metrics() for service in deployment.services])
    assert SECRET not in text
