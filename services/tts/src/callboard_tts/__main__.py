"""Starts one speech worker: `python -m callboard_tts --pool NAME [--config FILE]`."""

import argparse
import sys

from callboard_kit.lifecycle import run_service
from callboard_tts.app import run


def main() -> int:
    """Runs the worker and returns its exit code."""
    return run_service("tts", run, _arguments)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", required=True, help="the pool of tts.pools that this worker belongs to")


if __name__ == "__main__":
    sys.exit(main())
