"""A recogniser hears back what the real engine says: a sample of every kind; `make hear` hears them all."""

import pytest

from callboard_tts.backends.kokoro_onnx import KokoroOnnxEngine
from tests.backends.tts.kokoro_files import MODEL, VOICES, real_files_missing
from tests.hearing.listening import Listener
from tests.hearing.models import missing_files
from tests.hearing.results import RESULTS
from tests.hearing.sentences import Kind, Sentence, all_kinds

_MISSING = real_files_missing() or ", ".join(missing_files())
pytestmark = [
    # Not beside other tests: one process holds the engine and both recognisers, and prints what it heard.
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    # misaki opens its second Japanese dictionary with a deprecated call when a word first needs it.
    pytest.mark.filterwarnings("ignore:Dictionary.create:DeprecationWarning"),
    pytest.mark.skipif(bool(_MISSING), reason=f"{_MISSING}; fetch them with: make models hearing-models"),
]

KINDS = {kind.name: kind for kind in all_kinds()}
_loaded: list[Listener] = []
"""The engine is loaded once for the module; nothing in it belongs to an event loop."""


@pytest.fixture
async def listener() -> Listener:
    if not _loaded:
        engine = KokoroOnnxEngine(MODEL, VOICES)
        await engine.load()
        _loaded.append(Listener(engine))
    return _loaded[0]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.sample])
async def test_what_is_said_is_heard(listener: Listener, name: str) -> None:
    result = await listener.listen(KINDS[name], KINDS[name].sample)
    RESULTS.append(result)
    assert result.is_good_for_few, result.heard


async def test_wrong_words_are_noticed(listener: Listener) -> None:
    kind = Kind(
        "wrong",
        (Sentence("World War Roman two ended when Henry V I I I was dead.", KINDS["roman"].sentences[0].words),),
    )
    assert (await listener.listen(kind, kind.sentences)).errors.share > kind.limit
