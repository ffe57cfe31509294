"""What every path that streams text must do when its client hangs up, at whatever point."""

import asyncio
import random
from collections.abc import Callable

from tests.protocols.client import Client
from tests.protocols.conftest import NARROW
from tests.protocols.dialect import TextDialect
from tests.protocols.suite import RequestSuite
from tests.protocols.tenants import Tenant
from tests.support.deployment import Deployment, eventually
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script

WRITTEN = 120
"""How many tokens the engine writes before it falls silent until it is stopped."""


class CutSuite(RequestSuite[TextDialect]):
    """Streams that are cut."""

    def words(self, count: int) -> Callable[[bytes], bool]:
        """Whether a stream has brought that many words."""
        return lambda data: self.dialect.read_stream(data).text.count(" ") >= count

    async def test_stream_that_is_cut_anywhere_stops_its_engine_and_is_charged_for_what_was_sent(
        self, client: Client, deployment: Deployment, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        # Nothing but its client's going ends this reply, and all of them have one slot.
        words = [f"w{n} " for n in range(2 * WRITTEN)]
        chat_engine.plays(Script(reply=words, hang_at=WRITTEN, token_delay_s=0.002))
        request = self.dialect.ask(model=NARROW, stream=True)
        seen: list[int] = []
        for count in (0, *(random.randrange(1, WRITTEN) for _ in range(3)), WRITTEN):
            async with client.open(request) as answer:
                await answer.until(self.words(count))
                seen.append(self.dialect.read_stream(answer.data).text.count(" "))
                answer.leave()
            await eventually(lambda: chat_engine.active == 0, 20, "the engine is stopped")
        events = await tenant.usage(len(seen))
        assert {event.outcome for event in events} == {"cancelled"}
        charged = sorted(event.work.completion_tokens for event in events)
        assert all(read <= paid <= WRITTEN for read, paid in zip(sorted(seen), charged, strict=True)), (seen, charged)
        assert charged[-1] == seen[-1] == WRITTEN
        # Neither has one that is cut before its first word a job left, nor one whose answer had not begun.
        asking = asyncio.ensure_future(client.ask(request))
        await asyncio.sleep(random.random() / 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: deployment.messages_in("CHAT") == 0, 20, "no job is left")
        assert chat_engine.active == 0
