"""Starts one speech worker: `python -m callboard_tts --pool NAME [--config FILE]`."""

import sys

from callboard_kit.native_code import explained_imports

with explained_imports("tts"):
    from callboard_tts.app import run
    from callboard_worker.runtime import worker_main

if __name__ == "__main__":
    sys.exit(worker_main("tts", run))
