"""Starts one chat worker: `python -m callboard_chat --pool NAME [--config FILE]`."""

import argparse
import sys

from callboard_chat.app import run
from callboard_kit.lifecycle import run_service


def main() -> int:
    """Runs the worker and returns its exit code."""
    return run_service("chat", run, _arguments)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", required=True, help="the pool of chat.pools that this worker belongs to")


if __name__ == "__main__":
    sys.exit(main())
