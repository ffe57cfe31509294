"""Speech: when its first sound comes, and whether a player that starts at once runs dry."""

import time

from callboard_cli.bench.player import Player, WavHeader
from callboard_cli.bench.samples import FailedRequest, Failure, Sample
from callboard_cli.bench.target import MAX_STREAM_BYTES, Target


async def speak(target: Target, sample: Sample, text: str) -> None:
    """Has a text spoken into a sample; raises FailedRequest and what the session raises."""
    # The head of a WAV file says how fast it plays, and its samples can be played as they come.
    body = {"model": target.speech_model, "voice": target.voice, "input": text, "response_format": "wav"}
    header, player, received = WavHeader(), None, 0
    async with target.asking("POST", f"{target.api}/audio/speech", body) as answer:
        async for part in answer.content.iter_any():
            now = time.monotonic()
            received += len(part)
            if received > MAX_STREAM_BYTES:
                raise FailedRequest(Failure("too_long", 200))
            try:
                sound = header.sound_in(part)
            except ValueError as error:
                raise FailedRequest(Failure("no_audio", 200, str(error))) from None
            if sound and header.bytes_per_s is not None:
                sample.first_s = sample.first_s or now
                player = player or Player(header.bytes_per_s)
                player.feed(now, len(sound))
    if player is None:
        raise FailedRequest(Failure("empty", 200))
    sample.audio_s, sample.underruns, sample.underrun_s = player.audio_s, player.underruns, player.underrun_s
