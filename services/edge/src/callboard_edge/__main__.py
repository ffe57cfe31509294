"""Runs the edge: `python -m callboard_edge`."""

import sys

from callboard_kit.lifecycle import run_service
from callboard_kit.native_code import explained_imports

with explained_imports("edge"):
    from callboard_edge.app import serve


def main() -> int:
    """Runs the edge and returns its exit code."""
    return run_service("edge", serve)


if __name__ == "__main__":
    sys.exit(main())
