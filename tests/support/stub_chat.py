"""The stub chat engine in a thread of the test process, which can go down and come back on the same port."""

from typing import Any

from tests.support.stub_openai import Script, StubOpenAI
from tests.support.threaded_app import ThreadedApp


class StubChat:
    """A chat engine that tests script and look into; its default reply has 32 tokens."""

    def __init__(self) -> None:
        self.stub = StubOpenAI()
        self.listening = False
        self._server = ThreadedApp(lambda: self.stub.app())

    @property
    def url(self) -> str:
        """The engine's address, with its version segment."""
        return f"{self._server.url}/v1"

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The bodies of every request since the last reset."""
        return self.stub.requests

    @property
    def active(self) -> int:
        """How many replies are being streamed."""
        return self.stub.active

    @property
    def left_at(self) -> float:
        """When a client last hung up in the middle of a reply, in Unix seconds; 0 when none has."""
        return self.stub.last_left_at

    def plays(self, script: Script) -> None:
        """Lets the next requests meet a script."""
        self.stub.script = script

    def reset(self) -> None:
        """Forgets what was seen and scripted."""
        self.stub.requests.clear()
        self.stub.left_early = 0
        self.stub.last_left_at = 0.0
        self.stub.script = Script()

    def start(self) -> None:
        """Begins to serve; does nothing while it serves."""
        if not self.listening:
            self._server.start()
            self.listening = True

    def pause(self) -> None:
        """Goes down; `start` brings it back on the same port."""
        self._server.pause()
        self.listening = False

    def close(self) -> None:
        """Ends the engine."""
        self._server.close()


def numbered(count: int, delay_s: float = 0.0) -> Script:
    """A reply of numbered words, so that a word that is missing or comes twice is seen."""
    return Script(reply=[f"w{n} " for n in range(count)], token_delay_s=delay_s)
