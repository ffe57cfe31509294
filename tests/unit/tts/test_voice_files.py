"""Voice files: finding, reading and blending them, and the row for a length."""

from pathlib import Path

import numpy as np
import pytest

from callboard_tts.backends.voice_files import STYLE_ROWS, STYLE_WIDTH, VoiceStore, style_row
from callboard_tts.domain.voices import VoiceChoice
from callboard_worker.engine import EngineUnavailable

pytestmark = pytest.mark.unit


def table(value: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full((STYLE_ROWS, 1, STYLE_WIDTH), value, dtype=np.float32)


@pytest.fixture(params=["bin", "npy", "npz"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VoiceStore:
    voices = {"af_one": table(1.0), "zm_two": table(4.0), "unlike": table(0.0)}
    if request.param == "npz":
        np.savez(tmp_path / "voices.npz", allow_pickle=False, **voices)
        store = VoiceStore(tmp_path / "voices.npz")
    else:
        for name, style in voices.items():
            if request.param == "bin":
                style.tofile(tmp_path / f"{name}.bin")
            else:
                np.save(tmp_path / f"{name}.npy", style)
        (tmp_path / "readme.txt").write_text("no voice", encoding="utf-8")
        store = VoiceStore(tmp_path)
    store.open()
    return store


def test_voices_have_their_languages(store: VoiceStore) -> None:
    assert [(voice.name, voice.language) for voice in store.voices()] == [("af_one", "en-us"), ("zm_two", "zh")]
    store.close()


def test_blend_is_the_weighted_mean(store: VoiceStore) -> None:
    style = store.style(VoiceChoice("", (("af_one", 2 / 3), ("zm_two", 1 / 3))))
    assert np.allclose(style, table(2.0), rtol=1e-5, atol=0.0)
    store.close()


def test_row_follows_the_length_in_phonemes() -> None:
    style = np.arange(STYLE_ROWS, dtype=np.float32).reshape(STYLE_ROWS, 1, 1)
    assert [style_row(style, length).item() for length in (0, 1, 2, 510, 900)] == [0, 0, 1, 509, 509]


def test_missing_voices_name_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="callboard models fetch"):
        VoiceStore(tmp_path / "none").open()


def test_archive_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "voices.npz").write_bytes(b"no archive")
    with pytest.raises(EngineUnavailable, match="cannot be read"):
        VoiceStore(tmp_path / "voices.npz").open()
    np.save(tmp_path / "voices.npy", table(1.0))
    with pytest.raises(EngineUnavailable, match=r"not an \.npz"):
        VoiceStore(tmp_path / "voices.npy").open()


def test_damaged_voice_is_named(tmp_path: Path) -> None:
    (tmp_path / "af_bad.bin").write_bytes(b"short")
    store = VoiceStore(tmp_path)
    store.open()
    with pytest.raises(EngineUnavailable, match="af_bad"):
        store.style(VoiceChoice("", (("af_bad", 1.0),)))
