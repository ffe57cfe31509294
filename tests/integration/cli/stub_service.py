"""A stub service: answers readiness on a port, and ends, hangs or stays as its arguments say.

Usage: stub_service.py PORT BEHAVIOUR, with BEHAVIOUR one of serve, fail, late, stubborn, warn, die, crash.
"""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

_was_ready = threading.Event()


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if sys.argv[2] == "late" else 200)
        self.end_headers()
        if self.path == "/readyz":
            _was_ready.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> int:
    """Runs until SIGTERM."""
    behaviour = sys.argv[2]
    if behaviour == "fail":
        print("callboard stub: the engine is missing", file=sys.stderr)
        return 3
    if behaviour == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    stop = threading.Event()
    ignore = behaviour == "stubborn"
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore else lambda *_: stop.set())
    if behaviour == "warn":
        print(json.dumps({"level": "info", "event": "quiet_event"}), file=sys.stderr)
        print(json.dumps({"level": "warning", "event": "loud_event"}), file=sys.stderr)
        print("x" * 200_000, file=sys.stderr)
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), _Ready)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if behaviour == "die":
        _was_ready.wait(60)
        stop.wait(0.5)
        return 5
    stop.wait(60)
    print("said goodbye", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
