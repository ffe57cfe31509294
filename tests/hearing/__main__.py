"""Hears all sentences back and prints the word error of each kind: `make hear`, or with kinds: `ARGS="prose roman"`.

That judges the speech. With `--service` the recogniser is judged: services/stt's decoder and its engine, as they are
without further settings, hear a hundred plain sentences in English, of which at most one word in twenty may be wrong,
and those of the other languages, which are only printed.
"""

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack

from callboard_tts.backends.kokoro_onnx import KokoroOnnxEngine
from tests.backends.tts.kokoro_files import MODEL, VOICES, real_files_missing
from tests.hearing.listening import Listener
from tests.hearing.models import missing_files
from tests.hearing.reading import Reader
from tests.hearing.results import Result, row, table
from tests.hearing.sentences import Kind, all_kinds
from tests.hearing.words import Errors

PLAIN = ("prose", "talk")
"""The kinds of plain sentences, a hundred together."""
SERVICE_LIMIT = 0.05


def _chosen(names: list[str], *, service: bool) -> list[Kind]:
    kinds = all_kinds()
    if service and not names:
        # What a voice of another language has to say in it; a recogniser is not to blame for how numbers are spoken.
        return [kind for kind in kinds if kind.name in PLAIN or (kind.language != "en" and kind.voice[0] != "a")]
    return [kind for kind in kinds if not names or kind.name in names]


async def _hear(names: list[str], *, verbose: bool, service: bool) -> bool:
    engine = KokoroOnnxEngine(MODEL, VOICES)
    await engine.load()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        reader = await stack.enter_async_context(Reader()) if service else None
        listener = Listener(engine, reader.read if reader else None)
        results: list[Result] = []
        print(*table([]), sep="\n")
        for kind in _chosen(names, service=service):
            results.append(await listener.listen(kind, kind.sentences))
            print(row(results[-1]), flush=True)
            if verbose:
                print(results[-1].heard)
    return _service_is_good(results) if service else all(result.is_good for result in results)


def _service_is_good(results: list[Result]) -> bool:
    errors, plain = Errors(), [result for result in results if result.kind.name in PLAIN]
    for result in plain:
        errors.add(result.errors)
    sentences = sum(result.sentences for result in plain)
    print(f"\n{sentences} English sentences: {errors.wrong} of {errors.expected} words wrong, {errors.share:.2%}")
    return errors.share <= SERVICE_LIMIT


def main() -> int:
    """Exit code 1 when a kind is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m tests.hearing", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="the kinds to hear; default: all")
    parser.add_argument("--verbose", action="store_true", help="print what was heard")
    parser.add_argument("--service", action="store_true", help="judge the service's recogniser")
    arguments = parser.parse_args()
    missing = real_files_missing() or ", ".join(missing_files())
    if missing:
        sys.stderr.write(f"{missing}: fetch with `make models hearing-models`\n")
        return 1
    return 0 if asyncio.run(_hear(arguments.kinds, verbose=arguments.verbose, service=arguments.service)) else 1


if __name__ == "__main__":
    sys.exit(main())
