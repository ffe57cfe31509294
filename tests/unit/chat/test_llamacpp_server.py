"""What llama.cpp's server is started with."""

from pathlib import Path

import pytest

from callboard_chat.backends import llamacpp_server
from callboard_chat.backends.llamacpp_server import server_params

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("cores", "given", "one_reply", "prompts"), [(1, None, 1, 1), (2, None, 1, 2), (8, None, 7, 8), (8, 3, 3, 3)]
)
def test_single_reply_leaves_a_processor_to_others(
    cores: int, given: int | None, one_reply: int, prompts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp_server, "processors", lambda: cores)
    params = server_params(Path("owl.gguf"), "key", 2, 512, given, 0)
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads) == (one_reply, prompts)
