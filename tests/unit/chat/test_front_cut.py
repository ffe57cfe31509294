"""Prompts that are too long lose their front, memory stays, and a cut stays where it is for several turns."""

import itertools
import random

import pytest

from callboard_chat.domain.front_cut import CHARACTER, LINE, NONE, fitted, may_be_cut, text_border
from callboard_chat.domain.vocabulary import Vocabulary
from callboard_contracts.chat import ChatRequest
from callboard_contracts.prompt_size import reply_within

pytestmark = pytest.mark.unit

ROOM = 800


def same(_tokens: list[int], _at: int) -> int:
    return CHARACTER


def numbers(count: int, seed: int = 1) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(50_000) for _ in range(count)]


def test_what_fits_is_left_whole() -> None:
    memory, prompt = numbers(300), numbers(500, 2)
    assert fitted(memory, prompt, ROOM, same) == (memory, prompt)


@pytest.mark.parametrize("extra", [1, 7, 100, 5000])
def test_the_prompt_loses_its_front_and_memory_nothing(extra: int) -> None:
    memory, prompt = numbers(300), numbers(500 + extra, 2)
    kept, rest = fitted(memory, prompt, ROOM, same)
    assert kept == memory
    assert prompt[-len(rest) :] == rest
    assert 500 - 500 // 8 <= len(rest) <= 500


@pytest.mark.parametrize("prompt_length", [0, 1, 50, 3000])
def test_a_memory_that_fills_the_room_keeps_its_start_token_and_its_own_end(prompt_length: int) -> None:
    memory, prompt = [1, *numbers(5000)], numbers(prompt_length, 2)
    kept, rest = fitted(memory, prompt, ROOM, same, fixed=1)
    assert len(kept) + len(rest) <= ROOM
    assert kept[0] == 1
    assert kept[1:] == memory[-len(kept) + 1 :]
    assert bool(rest) is bool(prompt)
    assert rest == prompt[len(prompt) - len(rest) :]


def test_a_cut_stays_for_several_turns_also_where_the_client_shortens_its_dialogue() -> None:
    dialogue = numbers(40_000, 3)
    starts: list[int] = []
    for turn in range(200):
        end = 2000 + 20 * turn
        # The client sends a window that moves with every turn.
        start = 17 * turn
        _, rest = fitted([], dialogue[start:end], ROOM, same)
        starts.append(end - len(rest))
    moves = sum(one != other for one, other in itertools.pairwise(starts))
    assert starts == sorted(starts)
    assert moves < 200 // 2


def test_a_cut_prefers_the_start_of_a_line_and_never_the_middle_of_a_character() -> None:
    def border(tokens: list[int], at: int) -> int:
        return LINE if tokens[at - 1] == 0 else NONE if tokens[at] % 2 else CHARACTER

    prompt = [*range(2, 1000), 0, *range(1000, 1700)]
    assert fitted([], prompt, ROOM, border)[1] == list(range(1000, 1700))
    odd = [2 * n + 1 for n in range(900)]
    odd[120] = 4
    assert fitted([], odd, ROOM, border)[1][0] == 4


def test_plain_text_is_cut_at_lines_and_characters() -> None:
    text = "".join(f"Ada: line {n} 👩‍👩‍👧‍👦\n" for n in range(200))
    memory, rest = fitted("Mo is a miller.\n", text, 1000, text_border)
    assert memory == "Mo is a miller.\n"
    assert rest.startswith("Ada: line ")
    assert text.endswith(rest)


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_room_of_next_to_nothing_is_kept_to(room: int) -> None:
    memory, prompt = fitted(numbers(10), numbers(10, 2), room, same)
    assert 1 <= len(memory) + len(prompt) <= room


@pytest.mark.parametrize(("asked", "context", "limit"), [(5, 100, 5), (100, 100, 99), (10**6, 100, 99), (5, 1, 1)])
def test_a_reply_leaves_a_token_of_the_prompt(asked: int, context: int, limit: int) -> None:
    assert reply_within(asked, context) == limit


def test_what_may_have_been_cut_teaches_nothing() -> None:
    asked = ChatRequest(mode="completion", model="owl", prompt="x", max_output_tokens=200, overflow="drop_front")
    assert may_be_cut(asked, 700, 1000)
    assert not may_be_cut(asked, 300, 1000)
    assert not may_be_cut(asked.model_copy(update={"overflow": "refuse"}), 700, 1000)


def test_vocabularies_tell_borders() -> None:
    of_bytes = Vocabulary(["a", "Ċ", "bĊ", "ł", "Ġc", "<|x|>", "ðŁ"], [1, 1, 1, 1, 1, 3, 1])
    assert [of_bytes.border([token, 0], 1) for token in range(7)] == [1, 0, 0, 1, 1, 1, 1]
    assert [of_bytes.border([0, token], 1) for token in range(7)] == [1, 1, 1, 2, 1, 1, 1]
    assert (of_bytes.size, of_bytes.special, of_bytes.control_ids) == (7, {"<|x|>"}, {5})
    of_pieces = Vocabulary(["▁a", "<0x0A>", "<0x8B>", "<0xC3>", "â"], [1, 6, 6, 6, 1])
    assert [of_pieces.border([0, token], 1) for token in range(5)] == [1, 1, 2, 1, 1]
    assert of_pieces.border([1, 0], 1) == LINE
    assert Vocabulary().border([1, 2], 1) == CHARACTER
