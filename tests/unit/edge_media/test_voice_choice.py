import asyncio

import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.workers import OfferedModel, OfferedVoice, PoolRecord, WorkerInfo
from callboard_edge.domain.catalogue import SpeechModel
from callboard_edge.domain.voices import VoiceCatalog
from callboard_edge.domain.workers import Workers

pytestmark = pytest.mark.unit


CATALOG = VoiceCatalog(
    voices=("af_bella", "af_sky", "odd name(1)"),
    aliases={"alloy": "af_sky", "duet": "af_bella(2)+af_sky", "af_bella+x": "af_bella"},
    default_voice="af_bella",
)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (None, "af_bella"),
        ("af_sky", "af_sky"),
        (" af_sky ", "af_sky"),
        ("alloy", "af_sky"),
        ("odd name(1)", "odd name(1)"),
        ("af_bella(2)+af_sky(1)", "af_bella(2)+af_sky(1)"),
        ("af_bella + alloy(0.5)", "af_bella(1)+af_sky(0.5)"),
        ("duet", "af_bella(2)+af_sky(1)"),
        ("af_bella(3)", "af_bella"),
        ("af_bella+x", "af_bella"),
    ],
)
def test_wish_becomes_the_engines_voice(asked: str | None, meant: str) -> None:
    assert CATALOG.resolve(asked) == meant


@pytest.mark.parametrize("asked", ["", "nobody", "AF_SKY", "af_sky+nobody", "af_sky(0)", "af_sky(1", "+", "\ud800"])
def test_unknown_voice_lists_what_is_offered(asked: str) -> None:
    with pytest.raises(CallboardError) as caught:
        CATALOG.resolve(asked)
    info = caught.value.info
    assert info.code is ErrorCode.UNKNOWN_VOICE
    assert info.param == "voice"
    assert info.offered == CATALOG.listed()
    assert "af_bella, af_sky" in info.message
    info.message.encode()


def test_voices_on_offer_are_the_configured_ones_or_those_that_workers_announced() -> None:
    chosen = SpeechModel("a", (), "p", False, 180.0, ("x", "y"), {}, "x")
    any_voice = SpeechModel("b", (), "p", False, 180.0, (), {}, "x")

    async def catalogs() -> list[tuple[str, ...] | None]:
        workers = Workers()
        workers.mark_loaded(0)
        before = any_voice.catalog(workers).voices
        offered = (OfferedModel(name="b", voices=(OfferedVoice(name="v", language="fr-fr"),)),)
        info = WorkerInfo(id="w", service="tts", pool="p", backend="fake", models=offered, slots=1, at=0)
        workers.announce(info)
        assert any_voice.language(workers, "v") == "fr-fr"
        awake = any_voice.catalog(workers).voices
        workers.forget("w")
        workers.record("tts", "p", PoolRecord(last_started_at=0, models=offered))
        return [chosen.catalog(workers).voices, before, awake, any_voice.catalog(workers).voices]

    assert asyncio.run(catalogs()) == [("x", "y"), None, ("v",), ("v",)]


def test_voice_that_nobody_has_named_yet_is_left_to_the_worker() -> None:
    unknown = VoiceCatalog(None, {"alloy": "v"}, "x")
    assert unknown.listed() == ("x", "alloy")
    assert [unknown.resolve(asked) for asked in (None, "alloy", "any", "a(2)+alloy")] == ["x", "v", "any", "a(2)+v(1)"]
    with pytest.raises(CallboardError):
        unknown.resolve("a(")
