"""The edge as a test process: with the toy protocol beside its own, and with keep-alives that a test can wait for."""

import sys
from functools import partial
from unittest import mock

from callboard_edge.app import PROTOCOLS, serve
from callboard_edge.http import text_responder
from callboard_kit.lifecycle import run_service
from tests.protocols.toy import Toy

KEEP_ALIVE_S = 0.2


def main() -> int:
    """Runs the edge and returns its exit code."""
    with mock.patch.object(text_responder, "KEEP_ALIVE_S", KEEP_ALIVE_S):
        return run_service("edge", partial(serve, protocols=(*PROTOCOLS, Toy())))


if __name__ == "__main__":
    sys.exit(main())
