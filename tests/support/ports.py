"""Free loopback ports."""

import random
import socket

RANGE = range(12_000, 32_000)
"""Below those that the system gives to outgoing connections, which could take a port before its server does."""
_given: set[int] = set()
_chance = random.SystemRandom()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago, and that no other caller in this process was given."""
    while True:
        port = _chance.choice(RANGE)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
