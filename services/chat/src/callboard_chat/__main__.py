"""Starts one chat worker: `python -m callboard_chat --pool NAME [--config FILE]`."""

import sys

from callboard_kit.native_code import explained_imports

with explained_imports("chat"):
    from callboard_chat.app import run
    from callboard_worker.runtime import worker_main

if __name__ == "__main__":
    sys.exit(worker_main("chat", run))
