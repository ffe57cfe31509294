"""A fake model hub: an HTTP server on loopback that serves files and ranges, and can fail."""

import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub(ThreadingHTTPServer):
    """Serves `contents` by path; `cut_after_bytes` truncates one reply, `etag` marks the version of all files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents: dict[str, bytes] = {}
        self.cut_after_bytes: int | None = None
        self.authorizations: list[str | None] = []
        self.etag: str | None = None
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        """The address of the hub."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.ranges.append(requested)
        self.server.authorizations.append(self.headers.get("Authorization"))
        content = self.server.contents.get(self.path)
        if content is None:
            self.send_error(404)
            return
        current = self.headers.get("If-Range") in {None, self.server.etag}
        match = re.fullmatch(r"bytes=(\d+)-", requested or "") if current else None
        start = int(match[1]) if match else 0
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if self.server.etag is not None:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        end = len(content)
        if self.server.cut_after_bytes is not None:
            end = start + self.server.cut_after_bytes
            self.server.cut_after_bytes = None
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running_hub() -> Generator[FakeHub]:
    """Runs a fake hub in its own thread until the context ends."""
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, name="hub")
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join(5)
