"""`callboard bench` against a small site and against the engine behind it, which is no Callboard."""

import asyncio
import json
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from callboard_cli.bench.command import KEY
from callboard_cli.failures import ExitCode
from tests.support.commands import run_command
from tests.support.deployment import Deployment, eventually
from tests.support.fork_server import ForkedChild
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

QUICK = ("--warm-up", "1", "--turns", "2", "--think", "0")
TO_FIRST, TO_SOUND = "gen_ai.client.operation.time_to_first_chunk", "callboard.client.time_to_first_sound"
SPOKEN = "Places, please. The curtain rises in five minutes."
TOKENS = 4


@pytest.fixture(scope="module")
def with_rooms(shared_deployment: Deployment) -> Generator[None]:
    rooms = shared_deployment.add_rooms()
    rooms.wait_ready()
    yield
    assert rooms.running.stop() == 0
    shared_deployment.rooms.remove(rooms)


@pytest.fixture
def keyed(api_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, api_key)


async def bench(tmp_path: Path, *words: str, code: int = ExitCode.OK) -> dict[str, Any]:
    done = await run_command(tmp_path, {}, "bench", *words, *QUICK, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def work_of(found: dict[str, Any], name: str, target: int = 0) -> dict[str, Any]:
    (one,) = (work for work in found["works"] if (work["work"], work["target"]) == (name, target))
    return one


@pytest.mark.usefixtures("with_rooms", "keyed")
async def test_a_site_is_measured_whole_and_reported(
    deployment: Deployment, chat_engine: StubChat, tmp_path: Path
) -> None:
    chat_engine.plays(numbered(TOKENS))
    since = len(await deployment.usage())
    found = await bench(
        tmp_path, deployment.root_url(), "--requests", "2", "--report", str(tmp_path / "out"), "--text", SPOKEN
    )
    assert found["left_out"] == {}
    assert found["targets"][0] == {
        "url": deployment.root_url(),
        "callboard": True,
        "model": "owl",
        "speech_model": "parrot",
        "voice": "tenor",
    }
    for name in ("chat", "speech", "conversations", "rooms"):
        work = work_of(found, name)
        assert (work["requests"], work["succeeded"], work["errors"]) == (2, 2, []), work
    for name in ("chat", "conversations"):
        work = work_of(found, name)
        assert work["durations"][TO_FIRST]["count"] == 2
        assert (work["output_tokens"], work["tokens_counted_by"]) == (2 * TOKENS, ["usage"])
    assert set(work_of(found, "conversations")["first_by_turn"]) == {"1", "2"}
    speech, room = work_of(found, "speech"), work_of(found, "rooms")
    assert speech["durations"][TO_SOUND]["count"] == room["durations"][TO_SOUND]["count"] == 2
    # Twenty milliseconds for each letter.
    assert speech["audio_s"] == pytest.approx(2 * len(f"{SPOKEN} 1.") * 0.02, rel=0.1)
    assert speech["audio_s_per_s"] > 0
    # A room's stream goes on while nobody speaks.
    assert room["audio_s"] > room["requests"] * TOKENS * 3 * 0.02
    # What the site counted is what was asked for, warm-up included.
    await deployment.usage_of(3 + 3 + 3 + 2 * 3, since)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert deployment.root_url() in page
    assert (tmp_path / "out" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8")) == found


@pytest.mark.usefixtures("keyed")
async def test_a_site_is_compared_with_the_engine_behind_it(
    deployment: Deployment, chat_engine: StubChat, tmp_path: Path
) -> None:
    chat_engine.plays(Script(first_delay_s=0.02))
    found = await bench(
        tmp_path,
        *(f"{deployment.root_url()}/", "--against", chat_engine.url, "--against-model", "stub"),
        *("--work", "chat,rooms", "--requests", "6", "--pairs", "3"),
    )
    assert [target["callboard"] for target in found["targets"]] == [True, False]
    assert found["left_out"] == {"rooms": f"{chat_engine.url.removesuffix('/v1')}: the server is no Callboard"}
    assert [work_of(found, "chat", n)["succeeded"] for n in (0, 1)] == [6, 6]
    compared = {one["metric"]: one for one in found["comparison"]}
    assert compared[TO_FIRST]["pairs"] == 3
    assert compared[TO_FIRST]["least"] <= compared[TO_FIRST]["median"] <= compared[TO_FIRST]["most"]
    # The first server's key is shown to nobody else.
    assert "" in chat_engine.stub.authorizations


async def test_errors_are_counted_by_their_kind(
    deployment: Deployment, chat_engine: StubChat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, await asyncio.to_thread(deployment.create_key, "standard"))
    words = (deployment.root_url(), "--work", "chat", "--requests", "4", "--warm-up", "0")
    chat_engine.plays(Script(error_at=2))
    found = await bench(tmp_path, *words, "--model", "owl", code=ExitCode.FAILED)
    (error,) = work_of(found, "chat")["errors"]
    assert error["count"] == 4
    assert error["status"] in {200, 502}
    assert "secret raw text" not in json.dumps(found)
    assert work_of(found, "chat")["output_tokens"] == 0
    missing = await bench(tmp_path, *words, "--model", "no-such", code=ExitCode.FAILED)
    assert [(one["kind"], one["count"]) for one in work_of(missing, "chat")["errors"]] == [("404 model_not_found", 4)]


async def test_a_refused_key_ends_it_before_it_begins(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("cb_wrong\n", encoding="ascii")
    words = ("bench", deployment.root_url(), "--key-file", str(tmp_path / "key"))
    done = await run_command(tmp_path, {}, *words)
    assert done.returncode == ExitCode.FAILED
    assert "/v1/models: 401 " in done.stderr
    assert "cb_wrong" not in done.stderr


async def test_ctrl_c_prints_what_there_is(
    deployment: Deployment, api_key: str, chat_engine: StubChat, tmp_path: Path
) -> None:
    chat_engine.plays(numbered(20, delay_s=0.02))
    words = ("bench", deployment.root_url(), "--work", "chat", "--warm-up", "0", "--at-once", "1")
    environ = {**os.environ, KEY: api_key}
    child = ForkedChild("callboard_cli", words, tmp_path / "out", environ, tmp_path / "errors")
    try:
        # One whole reply, and a second that is being written.
        await eventually(lambda: len(chat_engine.calls) >= 2 and chat_engine.active, 30, "a second reply has begun")
        child.signal(signal.SIGINT)
        assert await asyncio.to_thread(child.wait) == ExitCode.INTERRUPTED
    finally:
        child.kill()
    said = child.output()
    assert "stopped before its end" in said
    assert "1 requests were under way" in said
    assert TO_FIRST in said
    assert (tmp_path / "errors").read_text(encoding="utf-8") == ""
    # The site stops what nobody waits for.
    await eventually(lambda: not chat_engine.active, 10, "the engine has stopped")
