"""Hears all sentences back and prints the word error of each kind: `make hear`, or with kinds: `ARGS="prose roman"`."""

import argparse
import asyncio
import sys

from callboard_tts.backends.kokoro_onnx import KokoroOnnxEngine
from tests.backends.tts.kokoro_files import MODEL, VOICES, real_files_missing
from tests.hearing.listening import Listener
from tests.hearing.models import missing_files
from tests.hearing.results import row, table
from tests.hearing.sentences import all_kinds


async def _hear(names: list[str], *, verbose: bool) -> bool:
    engine = KokoroOnnxEngine(MODEL, VOICES)
    await engine.load()
    listener = Listener(engine)
    is_good = True
    print(*table([]), sep="\n")
    for kind in all_kinds():
        if not names or kind.name in names:
            result = await listener.listen(kind, kind.sentences)
            is_good &= result.is_good
            print(row(result), flush=True)
            if verbose:
                print(result.heard)
    await engine.close()
    return is_good


def main() -> int:
    """Exit code 1 when a kind is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m tests.hearing", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="the kinds to hear; default: all")
    parser.add_argument("--verbose", action="store_true", help="print what was heard")
    arguments = parser.parse_args()
    missing = real_files_missing() or ", ".join(missing_files())
    if missing:
        sys.stderr.write(f"{missing}: fetch with `make models hearing-models`\n")
        return 1
    return 0 if asyncio.run(_hear(arguments.kinds, verbose=arguments.verbose)) else 1


if __name__ == "__main__":
    sys.exit(main())
