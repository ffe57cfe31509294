"""A reply that is taken up again never has any of its text twice, whatever its engine makes of a prefill."""

from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from callboard_chat.domain.ports import Chunk, Continuation
from callboard_chat.domain.prefill import CERTAIN_CHARACTERS, PrefillCheck
from callboard_chat.domain.prior_attempt import History
from callboard_chat.domain.reply import Reply
from callboard_contracts.chat import ChatMessage, ChatRequest, OutputFormat, TokenLogprob
from callboard_contracts.errors import ErrorCode
from callboard_worker.engine import EngineRefused

pytestmark = pytest.mark.unit

WHOLE = tuple(f"word{n} " for n in range(12))

# Few words, so that refrains and false starts are common.
tokens = st.lists(
    st.sampled_from(("the ", "The ", " the", "ha", "ha ", "\n", "1", "owl ", "sang.")), min_size=1, max_size=30
)
cuts = st.integers(0, 30)
sizes = st.integers(1, 5)


def request(limit: int = 1000, **fields: object) -> ChatRequest:
    messages = (ChatMessage(role="user", content="Tell me a story."),)
    return ChatRequest.model_validate({"model": "owl", "messages": messages, "max_output_tokens": limit, **fields})


def chunks(texts: Iterable[str], size: int = 1, finish: str = "stop") -> list[Chunk]:
    """An engine's run, so many tokens at a time, with its own count at the end."""
    found = list(texts)
    pieces = [found[n : n + size] for n in range(0, len(found), size)]
    made = [Chunk("".join(piece), tokens=len(piece)) for piece in pieces]
    return [*made, Chunk(finish=finish, prompt_tokens=5, completion_tokens=len(found))]  # type: ignore[arg-type]


class Outcome:
    """What a client has and is charged after a reply was taken up again."""

    def __init__(self, said: Continuation, run: Iterable[Chunk], limit: int = 1000, **fields: object) -> None:
        prior = History(next_seq=3, said=said)
        self.reply = Reply(request(limit, **fields), attempt=2, prior=prior, check_prefill=True)
        self.interrupted = False
        try:
            for chunk in run:
                self.reply.take(chunk)
        except EngineRefused as refused:
            self.interrupted = refused.info.code is ErrorCode.INTERRUPTED
        end = self.reply.end("error" if self.interrupted else self.reply.finish or "stop").end
        assert end is not None
        self.text = self.reply.said.text
        self.charged = end.usage.completion_tokens


def said_of(texts: Iterable[str]) -> Continuation:
    found = list(texts)
    return Continuation("".join(found), "", len(found))


def shared(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(whole=tokens, cut=cuts, size=sizes)
def test_an_engine_that_honours_a_prefill_is_left_alone(whole: list[str], cut: int, size: int) -> None:
    before, rest = whole[:cut], whole[cut:]
    said, follows = "".join(before), "".join(rest)
    assume(said.strip())
    outcome = Outcome(said_of(before), chunks(rest, size))
    common = shared(said, follows)
    if common < CERTAIN_CHARACTERS and not (said and common == len(said)):
        assert outcome.text == said + follows
        assert outcome.charged == len(whole)
        assert not outcome.interrupted
    else:
        # A refrain just where the reply was cut cannot be told from a reply that begins again.
        assert outcome.text in {said, follows}
        assert outcome.charged <= len(whole)


@given(whole=tokens, cut=cuts, size=sizes)
def test_an_engine_that_begins_again_is_cut_and_goes_on(whole: list[str], cut: int, size: int) -> None:
    before = whole[:cut]
    outcome = Outcome(said_of(before), chunks(whole, size))
    said = "".join(before)
    if outcome.interrupted:
        assert outcome.text == said
        assert outcome.charged == len(before)
        assert len(said) < CERTAIN_CHARACTERS
    elif said.strip():
        assert outcome.text == "".join(whole)
        assert outcome.charged == len(whole)


@given(before=tokens, other=tokens, size=sizes)
def test_an_engine_that_begins_another_answer_is_interrupted_once_that_is_certain(
    before: list[str], other: list[str], size: int
) -> None:
    said, again = "".join(before), "".join(other)
    outcome = Outcome(said_of(before), chunks(other, size))
    common = shared(said, again)
    if CERTAIN_CHARACTERS <= common < len(said):
        assert outcome.interrupted
        assert outcome.text == said
        assert outcome.charged == len(before)


@given(cut=st.integers(3, 11), size=sizes)
def test_white_space_that_an_engine_strips_at_the_seam_does_no_harm(cut: int, size: int) -> None:
    before, rest = WHOLE[:cut], (" " + "".join(WHOLE[cut:])).split(" ")
    outcome = Outcome(said_of(before), chunks([f" {word}" for word in rest if word], size))
    assert outcome.text.split() == "".join(WHOLE).split()
    echoed = Outcome(said_of(before), chunks(["".join(before).strip(), *(f" {word}" for word in rest if word)], size))
    assert echoed.text.split() == "".join(WHOLE).split()


def test_a_repetition_that_uses_up_the_limit_is_interrupted() -> None:
    """Such an engine was told to write only the four tokens that were left."""
    outcome = Outcome(said_of(WHOLE[:3]), chunks(WHOLE[:4], finish="length"), limit=7)
    assert outcome.interrupted
    assert outcome.text == "".join(WHOLE[:4])
    assert outcome.charged == 4


def test_a_limit_that_is_reached_beyond_the_repetition_ends_the_reply() -> None:
    outcome = Outcome(said_of(WHOLE[:3]), chunks(WHOLE[:7], finish="length"), limit=7)
    assert (outcome.text, outcome.charged, outcome.interrupted) == ("".join(WHOLE[:7]), 7, False)


def test_an_engine_that_knows_no_limit_is_cut_at_it() -> None:
    outcome = Outcome(said_of(WHOLE[:3]), chunks(WHOLE), limit=7)
    assert (outcome.text, outcome.charged) == ("".join(WHOLE[:7]), 7)
    held = Outcome(said_of(["word and more of it"]), chunks(["w", "or", "d", "s"]), limit=3)
    assert (held.text, held.charged) == ("word and more of it", 1)


def test_thinking_that_begins_again_is_cut_with_the_text() -> None:
    said = Continuation("Well, the answer", "Let me think of it.", 9)
    again = Outcome(
        said, [Chunk(thinking="Let me think of it."), Chunk("Well, the answer is 4."), Chunk(finish="stop")]
    )
    assert (again.text, again.reply.said.thinking) == ("Well, the answer is 4.", "Let me think of it.")
    tagged = Outcome(said, chunks(["<think>Let me ", "think of it.</think>\n\nWell, the", " answer is 4."]))
    assert (tagged.text, tagged.reply.said.thinking) == ("Well, the answer is 4.", "Let me think of it.")
    for thought in ("Hm, what now?", "Let me think again."):
        other = Outcome(said, [Chunk(thinking=thought), Chunk("It is 4."), Chunk(finish="stop")])
        assert other.interrupted
        assert (other.text, other.reply.said.thinking) == ("Well, the answer", "Let me think of it.")


@pytest.mark.parametrize(
    "run",
    [
        [Chunk(thinking="Let me think of it. Yes."), Chunk("4."), Chunk(finish="stop")],
        chunks(["<thi", "nk>Let me think", " of it. Yes.</think>4."]),
    ],
)
def test_thinking_that_begins_again_goes_on(run: list[Chunk]) -> None:
    outcome = Outcome(Continuation("", "Let me think of it.", 9), run)
    assert (outcome.text, outcome.reply.said.thinking) == ("4.", "Let me think of it. Yes.")


def test_thinking_that_goes_on_is_left_alone() -> None:
    said = Continuation("", "Let me think of it.", 9)
    assert Outcome(said, chunks([" Yes.</think>4."])).text == "4."
    more = Outcome(said, [Chunk(thinking=" Yes."), Chunk("4."), Chunk(finish="stop")])
    assert (more.text, more.reply.said.thinking) == ("4.", "Let me think of it. Yes.")


def test_tokens_of_a_repetition_need_no_further_hold() -> None:
    reply = Reply(request(), attempt=2, prior=History(next_seq=3, said=said_of(WHOLE[:6])), check_prefill=True)
    counted: list[int] = []
    for chunk in chunks(WHOLE[:8]):
        counted.append(reply.tokens_with(chunk))
        reply.take(chunk)
    assert counted[3:] == [6, 6, 6, 7, 8, 8]


def test_log_probabilities_of_a_repetition_are_not_sent_again() -> None:
    run = [Chunk(text, tokens=1, logprobs=(TokenLogprob(token=text, logprob=-1.0),)) for text in WHOLE[:5]]
    outcome = Outcome(said_of(WHOLE[:3]), [*run, Chunk(finish="stop")])
    end = outcome.reply.end("stop").end
    assert end is not None
    assert [each.token for each in outcome.reply.result("r", end).logprobs] == list(WHOLE[3:5])


def test_a_raw_prompt_is_never_taken_for_another_turn() -> None:
    outcome = Outcome(said_of(["la la la la la la la "]), chunks(["la la la la la la la "]), mode="completion")
    assert outcome.text == "la la la la la la la " * 2


def test_json_that_begins_again_is_cut() -> None:
    said = said_of(['{"name": "Al', 'bert", "ag'])
    outcome = Outcome(
        said, chunks(['{"name": ', '"Albert", "age": 4}']), output_format=OutputFormat(kind="json_object")
    )
    assert outcome.text == '{"name": "Albert", "age": 4}'


def test_nothing_said_is_nothing_to_repeat() -> None:
    for said in (Continuation(), Continuation("\n")):
        check = PrefillCheck(said)
        assert check.decided
        assert check.feed("\n", "") == ("\n", "")
