"""The proxy of deploy/compose, run as it is configured there, in front of two edges."""

import asyncio
import re
import shutil
from collections.abc import Generator
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.children import Child
from tests.support.clients import HELLO, Reply, script_text
from tests.support.compose import FOLDER
from tests.support.deployment import CHAT_MODEL, Deployment, eventually
from tests.support.ports import free_port
from tests.support.stub_chat import StubChat, numbered

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("haproxy") is None, reason="haproxy is missing; `apt-get install haproxy` brings it"
    ),
]


class Proxy:
    """haproxy with the file of deploy/compose, whose edges are named one by one in place of Docker's names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.child: Child | None = None

    def start(self, deployment: Deployment) -> None:
        """Starts the proxy in front of every edge of a set."""
        text = (FOLDER / "haproxy.cfg").read_text(encoding="utf-8")
        servers = [
            f"  server edge{number} 127.0.0.1:{edge.config['edge']['port']} "
            f"check port {edge.health_port} inter 1s fall 2 rise 1"
            for number, edge in enumerate(deployment.edges)
        ]
        text = re.sub(r"^  server-template .*$", "\n".join(servers), text, flags=re.MULTILINE)
        text = text.replace("bind :8080", f"bind 127.0.0.1:{self.port}")
        file = self._folder / "haproxy.cfg"
        file.write_text(text, encoding="utf-8")
        self.child = Child(["haproxy", "-db", "-f", str(file)], self._folder / "haproxy.log")

    def client(self, key: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture
def proxy(tmp_path: Path) -> Generator[Proxy]:
    proxy = Proxy(tmp_path)
    yield proxy
    if proxy.child:
        proxy.child.kill()


async def test_two_edges_share_the_work_and_one_that_stops_loses_nothing(
    make_deployment: MakeBoard, chat_engine: StubChat, proxy: Proxy
) -> None:
    over = {"edge": {"trusted_proxies": ["127.0.0.0/8"]}, "chat": {"pools": {"main": {"slots": 32}}}}
    deployment = await asyncio.to_thread(make_deployment, over, edges=2)
    await asyncio.to_thread(proxy.start, deployment)
    key = await asyncio.to_thread(deployment.create_key, "standard")
    async with proxy.client(key) as client:
        await eventually(lambda: proxy.child and proxy.child.alive, 20, "the proxy runs")
        chat_engine.plays(numbered(60, delay_s=0.05))
        streams = [Reply() for _ in range(8)]
        async with asyncio.TaskGroup() as group:
            for reply in streams:
                group.create_task(reply.follow(client))
            for reply in streams:
                await reply.reaches(3)
            assert all(reply.words < 60 for reply in streams), "a word came before the reply was whole"
            served = [await asyncio.to_thread(open_streams, deployment, number) for number in (0, 1)]
            assert served == [4, 4]
            # Those that come now take a tenth of the time, in which some still find the edge that stops.
            chat_engine.plays(numbered(60, delay_s=0.005))
            stopping = asyncio.create_task(asyncio.to_thread(deployment.edges[0].running.stop, 60))
            replies = [
                client.chat.completions.create(model=CHAT_MODEL, messages=HELLO, max_tokens=100) for _ in range(20)
            ]
            texts = [(await reply).choices[0].message.content for reply in replies]
        assert await stopping == 0
        assert [reply.error for reply in streams] == [None] * 8
        assert {reply.text for reply in streams} == {script_text(60)}
        assert set(texts) == {script_text(60)}
    await asyncio.to_thread(deployment.wait_idle)


async def test_a_client_that_leaves_stops_its_engine(
    make_deployment: MakeBoard, chat_engine: StubChat, proxy: Proxy
) -> None:
    deployment = await asyncio.to_thread(make_deployment)
    await asyncio.to_thread(proxy.start, deployment)
    key = await asyncio.to_thread(deployment.create_key, "standard")
    chat_engine.plays(numbered(500, delay_s=0.1))
    async with proxy.client(key) as client:
        reply = Reply()
        following = asyncio.create_task(reply.follow(client, max_tokens=600))
        await reply.reaches(3)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    await eventually(lambda: chat_engine.active == 0, 20, "the engine stops")
    assert reply.words < 400
    await asyncio.to_thread(deployment.stop)


def open_streams(deployment: Deployment, edge: int) -> int:
    """How many requests an edge has in work."""
    metrics = deployment.edges[edge].metrics()
    return round(sum(value for name, value in metrics.items() if name.startswith("callboard_edge_open_streams")))
