"""Any text comes through every protocol as the engine wrote it, at once, however its bytes are cut on the way."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard_chat.backends.openai_replies import EventReader, ReplyReader
from callboard_chat.domain.reply import Reply
from callboard_contracts.chat import ChatFrame, ChatJob
from tests.hostile.targets import own_dialects
from tests.protocols.dialect import ParsedReply, TextDialect
from tests.unit.edge.harness import EdgeHarness, running

pytestmark = [pytest.mark.unit, pytest.mark.timeout(120)]

TIMEOUT_S = 20.0
CLUSTERS = (
    "\U0001f989",
    "\U0001f469\u200d\U0001f4bb",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "\U0001f1e7\U0001f1f4",
    "\u2764\ufe0f",
    "Здравствуй",
    "й",
    "བཀྲ་ཤིས་བདེ་ལེགས",
    "\u0f66\u0f92\u0fb2\u0f74",
    "e\u0301\u0323",
    "नमस्ते",
    "שָׁלוֹם",
    "你好",
    "\u2028",
    "\x85",
    "\r\n",
    "\n\n",
    "data: ",
    "STOP",
    "\\u00e9",
    '"',
    "\x00",
    "a ",
)
"""What is torn most easily: characters of several code points, and what looks like the framing of a stream."""


def dialect_id(one: TextDialect) -> str:
    """The name of a way to ask."""
    return f"{type(one).__name__} {one.path}"


DIALECTS = {dialect_id(one): one for one in own_dialects() if isinstance(one, TextDialect)}


@dataclass(frozen=True, slots=True)
class Said:
    """What an engine says: its tokens, where the bytes of its stream are cut, and the stop sequence that it meets."""

    tokens: tuple[str, ...]
    cuts: tuple[int, ...]
    stop: str

    @property
    def text(self) -> str:
        """The text as far as the stop sequence."""
        return "".join(self.tokens).partition(self.stop)[0]

    def shown(self, tokens: int) -> str:
        """What is certain of the text after so many tokens: all but what may become the stop sequence."""
        before, stop, _ = "".join(self.tokens[:tokens]).partition(self.stop)
        held = (length for length in range(len(self.stop) - 1, 0, -1) if before.endswith(self.stop[:length]))
        return before if stop else before[: len(before) - next(held, 0)]

    def runs(self) -> Iterator[list[bytes]]:
        """The bytes of each token's event, in pieces."""
        for token in self.tokens:
            event = {"choices": [{"index": 0, "delta": {"content": token}, "text": token}]}
            data = b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
            ends = sorted({cut % len(data) for cut in self.cuts} | {len(data)})
            yield [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        yield [b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DO', b"NE]\n\n"]

    def frames(self, job: ChatJob) -> Iterator[list[ChatFrame]]:
        """The frames that a worker sends after each token, and after the end."""
        events, reader, reply = EventReader(), ReplyReader(100), Reply(job.request, attempt=1)
        for pieces in self.runs():
            chunks = [chunk for piece in pieces if (chunk := reader.read(events.feed(piece)))]
            sent = [frame for chunk in chunks if (frame := reply.take(chunk))]
            if reply.finish is None and reader.done and (last := reply.take(reader.last())):
                sent.append(last)
            yield sent
        assert reply.finish is not None
        yield [reply.end(reply.finish)]


@st.composite
def sayings(draw: st.DrawFn) -> Said:
    """Some clusters, cut into tokens anywhere between code points; the stop sequence may be a part of them."""
    text = "A" + "".join(draw(st.lists(st.sampled_from(CLUSTERS), min_size=1, max_size=12))) + "."
    ends = sorted({*draw(st.lists(st.integers(1, len(text)), max_size=24)), len(text)})
    tokens = tuple(text[start:end] for start, end in zip([0, *ends], ends, strict=False))
    start = draw(st.integers(1, len(text) - 1))
    stop = text[start : start + draw(st.integers(1, 6))]
    # Protocols trim stop sequences, or leave out those of blanks.
    stop = stop if stop.strip() == stop and "\0" not in stop and draw(st.booleans()) else "never said"
    return Said(tokens, tuple(draw(st.lists(st.integers(1, 999), max_size=6))), stop)


async def posted(edge: EdgeHarness, dialect: TextDialect, said: Said) -> bytes:
    """The answer to a request for a whole reply."""
    request = dialect.ask(stops=[said.stop], max_tokens=90)
    asked = asyncio.ensure_future(
        edge.session.post(edge.url + request.path, data=request.body, headers={"Content-Type": request.content_type})
    )
    job = await edge.jobs.next_chat()
    for frames in said.frames(job):
        for frame in frames:
            edge.replies.send(job.request_id, frame)
    edge.jobs.finish(job.request_id)
    async with await asked as answer:
        assert answer.status == 200
        return await answer.read()


async def streamed(edge: EdgeHarness, dialect: TextDialect, said: Said) -> bytes:
    """The answer to a request for a stream; checks after each token that the client has all that is certain."""
    request = dialect.ask(stops=[said.stop], max_tokens=90, stream=True)
    headers = {"Content-Type": request.content_type}
    asked = asyncio.ensure_future(edge.session.post(edge.url + request.path, data=request.body, headers=headers))
    job = await edge.jobs.next_chat()
    data = b""
    answer = None
    for number, frames in enumerate(said.frames(job), start=1):
        for frame in frames:
            edge.replies.send(job.request_id, frame)
        shown = said.shown(min(number, len(said.tokens)))
        if not shown or number > len(said.tokens):
            continue
        answer = answer or await asked
        while dialect.read_stream(data).text != shown:
            more = await answer.content.readany()
            assert more, f"{shown!r} was held back: {data!r}"
            data += more
    edge.jobs.finish(job.request_id)
    answer = answer or await asked
    async with answer:
        return data + await answer.read()


def check(seen: ParsedReply, said: Said) -> None:
    """Checks a reply that is expected to be complete."""
    assert (seen.text, seen.error, seen.complete) == (said.text, None, True)


@pytest.mark.parametrize("name", DIALECTS)
def test_any_text_is_streamed_at_once_and_whole(name: str) -> None:
    dialect = DIALECTS[name]

    async def ask(edge: EdgeHarness, said: Said) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            for data, read in (
                (await posted(edge, dialect, said), dialect.read_whole),
                (await streamed(edge, dialect, said), dialect.read_stream),
            ):
                assert "\ufffd" not in data.decode()
                check(read(data), said)

    with asyncio.Runner() as runner:

        @settings(max_examples=20, deadline=None, database=None, suppress_health_check=(HealthCheck.too_slow,))
        @given(sayings())
        def run(said: Said) -> None:
            runner.run(ask(edge, said))

        serving = running()
        edge = runner.run(serving.__aenter__())
        try:
            run()
        finally:
            runner.run(serving.__aexit__(None, None, None))
