"""Files from strangers, decoded in a process of their own."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_stt.backends.decoder import ProcessDecoder
from tests.support.sounds import encoded, film_without_sound, melody, noise, silence, tone, wav

pytestmark = pytest.mark.unit

MAX_S = 20.0


@pytest.fixture
async def decoder() -> AsyncGenerator[ProcessDecoder]:
    decoder = ProcessDecoder(MAX_S)
    yield decoder
    await decoder.close()


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp3", "libmp3lame"), ("flac", "flac"), ("ogg", "libopus"), ("webm", "libopus"), ("mp4", "aac"), ("adts", "aac")],
)
async def test_every_container_becomes_the_same_sound(decoder: ProcessDecoder, container: str, codec: str) -> None:
    sound = await decoder.decode(encoded(melody([300, 600]), container, codec))
    assert sound.duration_ms == pytest.approx(2000, abs=150)
    assert abs(int(sound.samples.max())) > 4000


async def test_sound_is_resampled_and_mixed(decoder: ProcessDecoder) -> None:
    sound = await decoder.decode(wav(tone(440, 3), rate_hz=48_000))
    assert (sound.duration_ms, sound.container) == (1000, "wav")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"\0", "not a sound"),
        (b"Here is a text, and nothing else.\n" * 500, "not a sound"),
        (wav(tone(440, 1))[:30], "not a sound"),
        (encoded(tone(440, 1), "mp4", "aac")[:2000], "not a sound"),
        (film_without_sound(), "film without sound"),
        (wav(silence(MAX_S + 1)), "longer than the 20 s"),
    ],
    ids=["zero", "text", "head alone", "cut off", "silent film", "too long"],
)
async def test_what_is_no_sound_is_refused_by_name(decoder: ProcessDecoder, file: bytes, words: str) -> None:
    with pytest.raises(CallboardError, match=words) as refused:
        await decoder.decode(file)
    assert (refused.value.info.code, refused.value.info.param) == (ErrorCode.INVALID_REQUEST, "file")
    assert (await decoder.decode(wav(tone(440, 1)))).duration_ms == 1000


async def test_sound_that_breaks_off_is_heard_to_there(decoder: ProcessDecoder) -> None:
    file = encoded(noise(4), "mp3", "libmp3lame")
    sound = await decoder.decode(file[: len(file) // 2])
    assert 1500 < sound.duration_ms < 2500


async def test_long_sound_in_a_few_bytes_stops_at_the_bound(decoder: ProcessDecoder) -> None:
    file = encoded(silence(600), "flac", "flac")
    assert len(file) < 200_000
    with pytest.raises(CallboardError, match="longer than"):
        await decoder.decode(file)


async def test_playlist_opens_no_other_file(decoder: ProcessDecoder, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(tone(440, 1)))
    for playlist in (
        f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
    ):
        with pytest.raises(CallboardError, match="not a sound"):
            await decoder.decode(playlist.encode())


async def test_decoder_that_was_killed_costs_its_file_alone(decoder: ProcessDecoder) -> None:
    await decoder.start()
    assert decoder.spare is not None
    spare = await decoder.spare
    spare.kill()
    await spare.wait()
    assert (await decoder.decode(wav(tone(440, 1)))).duration_ms == 1000


async def test_cancelled_decoding_ends_its_process(decoder: ProcessDecoder) -> None:
    await decoder.start()
    spare = decoder.spare
    assert spare is not None
    process = await spare
    decoding = asyncio.ensure_future(decoder.decode(wav(silence(MAX_S))))
    while decoder.spare is spare:
        await asyncio.sleep(0)
    decoding.cancel()
    await asyncio.gather(decoding, return_exceptions=True)
    assert process.returncode is not None
    assert (await decoder.decode(wav(tone(440, 1)))).duration_ms == 1000


async def test_sounds_are_decoded_beside_one_another(decoder: ProcessDecoder) -> None:
    sounds = await asyncio.gather(*(decoder.decode(wav(tone(440, seconds))) for seconds in (1, 2, 3)))
    assert [sound.duration_ms for sound in sounds] == [1000, 2000, 3000]
