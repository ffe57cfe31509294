"""Starts one worker that writes down speech: `python -m callboard_stt --pool NAME [--config FILE]`."""

import sys

from callboard_kit.native_code import explained_imports

with explained_imports("stt"):
    from callboard_stt.app import run
    from callboard_worker.runtime import worker_main

if __name__ == "__main__":
    sys.exit(worker_main("stt", run))
