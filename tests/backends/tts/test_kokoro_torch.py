"""The `kokoro` package on torch, with a small model of random weights."""

import json
import string
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from callboard_tts.backends.kokoro import LEAST_STEP, KokoroEngine
from callboard_tts.backends.kokoro_base import FRAME
from callboard_tts.domain.ports import PieceRequest
from callboard_worker.engine import EngineUnavailable
from tests.backends.tts.kokoro_files import write_voices
from tests.backends.tts.suite import Rig, SpeechEngineSuite, speak

_MISSING = [package for package in ("torch", "kokoro") if find_spec(package) is None]
pytestmark = [
    pytest.mark.backend,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(_MISSING), reason=f"packages missing: {', '.join(_MISSING)}"),
    # The package normalises weights in torch's older way, and its own dependencies warn of their age.
    pytest.mark.filterwarnings("ignore"),
]

SOUNDS = ';:,.!?—…"()“” ' + string.ascii_letters + "ɑɐɒæɔɕçɖðʤəɚɛɜɟɡɥɨɪʝɯɰŋɳɲɴøɸθœɹɾɻʁɽʂʃʈʧʊʋʌɣχʎʒʔˈˌːʰʲᵊᵻ"
CONFIG: dict[str, Any] = {
    "istftnet": {
        "upsample_kernel_sizes": [20, 12],
        "upsample_rates": [10, 6],
        "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20,
        "resblock_dilation_sizes": [[1, 3, 5]],
        "resblock_kernel_sizes": [3],
        "upsample_initial_channel": 512,
    },
    "dropout": 0.2,
    "hidden_dim": 512,
    "max_dur": 4,
    "n_layer": 1,
    "n_mels": 80,
    "n_token": 178,
    "style_dim": 128,
    "text_encoder_kernel_size": 5,
    "plbert": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "num_hidden_layers": 1,
        "dropout": 0.1,
    },
    "vocab": {sound: number for number, sound in enumerate(SOUNDS, 1)},
}
_loaded: list["TorchRig"] = []
"""The engine is loaded once for the module; nothing in it belongs to an event loop."""


def write_model(folder: Path) -> Path:
    """A model folder as its publisher lays it out, with random weights."""
    import torch  # pyright: ignore[reportMissingImports] - not in the development environment
    from kokoro import KModel  # pyright: ignore[reportMissingImports] - the same

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    weights = folder / "kokoro.pth"
    torch.save({}, weights)
    torch.manual_seed(1)
    model = KModel(repo_id="local", config=CONFIG, model=str(weights))
    torch.save({name: part.state_dict() for name, part in model.named_children()}, weights)
    return folder


class TorchRig(Rig):
    voice = "af_one"
    quietest = 0.0
    loudest = float("inf")

    def __init__(self, folder: Path) -> None:
        self.model_path = write_model(folder)
        self.voices_path = write_voices(folder / "voices", "af_one", "am_two")
        self.kokoro = KokoroEngine(self.model_path, self.voices_path, device="cpu")
        self.engine = self.kokoro

    async def busy(self) -> int:
        return self.kokoro.active

    def breaks(self, text: str) -> PieceRequest:
        return replace(self.piece(text), voice=replace(self.choice(), language="xx"))


@pytest.fixture
async def rig(tmp_path_factory: pytest.TempPathFactory) -> TorchRig:
    if not _loaded:
        rig = TorchRig(tmp_path_factory.mktemp("kokoro"))
        await rig.engine.load()
        _loaded.append(rig)
    return _loaded[0]


class TestKokoroTorch(SpeechEngineSuite):
    pass


async def test_weights_come_from_the_file(rig: TorchRig) -> None:
    again = KokoroEngine(rig.model_path, rig.voices_path, device="cpu")
    await again.load()
    first, second = await speak(rig.engine, rig.piece()), await speak(again, rig.piece())
    await again.close()
    assert first.size == second.size


async def test_sound_is_rounded_up_to_a_length_seen_before(rig: TorchRig) -> None:
    class Rounding(KokoroEngine):
        rounds_lengths = True

    engine = Rounding(rig.model_path, rig.voices_path, device="cpu")
    await engine.load()
    for text in ("Hello.", "Hello there.", "The owl is on the roof."):
        # So slow that the few units of this model can say how long the last pad is.
        piece = rig.piece(text, speed=0.25)
        plain, rounded = await speak(rig.engine, piece), await speak(engine, piece)
        assert plain.size <= rounded.size < plain.size * 1.125 + LEAST_STEP * FRAME
        assert rounded.size % (LEAST_STEP * FRAME) == 0
    await engine.close()


async def test_voice_of_the_packages_own_kind_is_read(rig: TorchRig, tmp_path: Path) -> None:
    import torch  # pyright: ignore[reportMissingImports] - not in the development environment

    torch.save(torch.full((510, 1, 256), 0.1), tmp_path / "bf_three.pt")
    engine = KokoroEngine(rig.model_path, tmp_path, device="cpu")
    await engine.load()
    assert [(voice.name, voice.language) for voice in engine.voices()] == [("bf_three", "en-gb")]
    await engine.close()


async def test_piece_over_the_phoneme_limit_comes_in_parts(rig: TorchRig) -> None:
    text = "The owl is on the roof tonight and it can count to ten. " * 12
    parts = [part.samples.size async for part in rig.engine.synthesise(rig.piece(text))]
    assert len(parts) == 2


async def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"config\.json"):
        await KokoroEngine(tmp_path, tmp_path).load()


async def test_damaged_model_is_named(rig: TorchRig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "bad.pth").write_bytes(b"not a model")
    with pytest.raises(EngineUnavailable, match="cannot be loaded"):
        await KokoroEngine(tmp_path, tmp_path).load()
