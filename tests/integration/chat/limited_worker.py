"""A chat worker with a bound on its memory: a request that needs all of it ends the process and not the machine."""

import resource
import sys

LIMIT_BYTES = 3 * 1024**3

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    from callboard_chat.app import run
    from callboard_worker.runtime import worker_main

    sys.exit(worker_main("chat", run))
