"""Embeddings by the embedded llama.cpp, which gets texts as tokens so that none is longer than it can read."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from callboard_chat.backends.openai_wire import Json, vectors_of
from callboard_chat.domain.embedding import InputTooLong
from callboard_chat.domain.ports import Embedded

Call = Callable[[str, str, Json], Awaitable[Json]]


async def embed(call: Call, inputs: Sequence[str], most: int, *, truncate: bool) -> Embedded:
    """Makes a vector of each text of at most so many tokens; control tokens in a text are plain text.

    The engine gets no more at once than one text of that length has: while vectors come, it does not look whether
    anybody still waits for them.

    Raises:
        InputTooLong: a text is longer, and is not to be cut.
    """
    tokens = [await _tokens(call, text, add_special=True) for text in inputs]
    truncated = 0
    for index, found in enumerate(tokens):
        if len(found) <= most:
            continue
        if not truncate:
            raise InputTooLong(index, most, len(found))
        truncated += 1
        tokens[index] = cut(found, await _tokens(call, inputs[index], add_special=False), most)
    vectors: list[bytes] = []
    for some in portions(tokens, most):
        vectors += vectors_of(await call("POST", "/v1/embeddings", {"input": some, "encoding_format": "base64"}))
    return Embedded(vectors, sum(map(len, tokens)), truncated)


def portions(texts: Iterable[list[int]], most: int) -> Iterator[list[list[int]]]:
    """The texts in order, as many together as have at most so many tokens; one that has more comes alone."""
    some: list[list[int]] = []
    count = 0
    for text in texts:
        if some and count + len(text) > most:
            yield some
            some, count = [], 0
        some.append(text)
        count += len(text)
    if some:
        yield some


def cut(tokens: Sequence[int], text: Sequence[int], most: int) -> list[int]:
    """The tokens of a text that is too long, without its end, but with what the engine puts around it."""
    around = len(tokens) - len(text)
    before = next((n for n in range(around + 1) if tokens[n : n + len(text)] == text), around)
    return [*tokens[:before], *text[: max(0, most - around)], *tokens[before + len(text) :]]


async def _tokens(call: Call, text: str, *, add_special: bool) -> list[int]:
    question = {"content": text, "add_special": add_special, "parse_special": False}
    return (await call("POST", "/tokenize", question))["tokens"]
