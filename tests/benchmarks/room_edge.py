"""The edge with nothing but rooms' streams, as a process of its own."""

import sys
from functools import partial

from callboard_edge.app import serve
from callboard_kit.lifecycle import run_service
from tests.support.room_speech import StreamsOnly


def main() -> int:
    """Runs the edge and returns its exit code."""
    return run_service("edge", partial(serve, protocols=(StreamsOnly(),)))


if __name__ == "__main__":
    sys.exit(main())
