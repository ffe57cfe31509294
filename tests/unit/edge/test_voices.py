"""Names of voices that a client makes up."""

import pytest

from callboard_edge.domain.voices import VoiceCatalog

pytestmark = pytest.mark.unit

ALIASES = {"alloy": "af_alloy", "both": "af_bella(2)+af_sky"}
KOKORO = VoiceCatalog(("af_alloy", "af_bella", "af_sky", "am_onyx"), ALIASES, "af_sky")
UNSEEN = VoiceCatalog(None, ALIASES, "af_sky")


@pytest.mark.parametrize(
    ("asked", "voice"),
    [
        (None, "af_sky"),
        ("", "af_sky"),
        ("Kobo", "af_sky"),
        ("am_onyx", "am_onyx"),
        ("AM_Onyx.wav", "am_onyx"),
        ("alloy", "af_alloy"),
        ("both", "af_bella(2)+af_sky(1)"),
        ("af_bella+af_sky", "af_bella(1)+af_sky(1)"),
        ("cheery", "af_bella"),
        ("Onyx", "am_onyx"),
    ],
)
def test_a_name_that_means_a_voice_gets_it(asked: str | None, voice: str) -> None:
    assert KOKORO.resolve_any(asked) == voice


def test_a_made_up_name_always_gets_the_same_voice_and_names_are_spread() -> None:
    found = {name: KOKORO.resolve_any(name) for name in (f"Wendelin {number}" for number in range(200))}
    assert set(found.values()) == {"af_alloy", "af_bella", "af_sky", "am_onyx"}
    assert all(KOKORO.resolve_any(f"{name.upper()}.wav") == voice for name, voice in found.items())


@pytest.mark.parametrize(
    ("asked", "voice"),
    [("am_onyx", "am_onyx"), ("alloy", "af_alloy"), ("Wendelin", "af_sky"), ("a+(", "af_sky"), ("\ud800", "af_sky")],
)
def test_before_workers_are_seen_a_made_up_name_gets_the_default(asked: str, voice: str) -> None:
    assert UNSEEN.resolve_any(asked) == voice
