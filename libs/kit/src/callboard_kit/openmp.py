"""How the threads of native libraries that use OpenMP wait for one another."""

import os
from collections.abc import MutableMapping

SPIN_COUNT = 1_000
"""How often a thread looks for the others before it sleeps: some microseconds, where GNU's library takes milliseconds.

Engines meet hundreds of times for each token. While another process has one of the processors, threads that spin for
the one that has to wait use the rest of the time up: with Kokoro beside it, a reply of 40 tokens took 6 to 24 seconds
of processor time instead of one."""


def let_waiting_threads_sleep(environ: MutableMapping[str, str] = os.environ) -> None:
    """Has waiting threads sleep after a moment, unless the operator says how they wait.

    GNU's library reads it once, when it is loaded: call this before anything is imported that uses it.
    """
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
