"""Speech: is audio generated faster than it is played?"""

from deploy.observability.definitions import workers
from deploy.observability.panels import Dashboard, Query, Row, counter, panel, per_second, processes, spread

AUDIO = Row(
    "Audio",
    (
        *spread(
            "callboard_tts_time_to_first_audio_seconds",
            "First audio",
            "From a job's delivery to the worker to its first audio segment.",
            workers.POOL,
            runbook="first-audio-slow",
        ),
        *spread(
            "callboard_tts_real_time_factor_ratio",
            "Real-time factor",
            "The engine's time for a piece divided by the duration of its audio; above 1, a listener has to wait.",
            workers.POOL,
            unit="suffix: ×",
            limits=((1, "red"),),
            runbook="speech-slower-than-real-time",
        ),
        counter(
            "Underruns",
            "Pieces that were ready only after all audio before them had been played: the listener hears a gap.",
            "callboard_tts_underruns_total",
            workers.POOL,
            runbook="speech-slower-than-real-time",
        ),
        *spread(
            "callboard_tts_lane_wait_seconds",
            "Lane wait",
            "How long a piece waited until an engine lane was free for it; listeners that run dry come first.",
            workers.POOL,
            runbook="first-audio-slow",
        ),
        counter(
            "Refused utterances",
            "Utterances refused before any sound, because the engine could not have kept them fed beside the others.",
            "callboard_tts_refused_total",
            workers.POOL,
            runbook="speech-slower-than-real-time",
        ),
        counter(
            "Audio rate",
            "Seconds of audio sent a second: how many listeners it serves in real time.",
            "callboard_tts_audio_seconds_total",
            workers.POOL,
            unit="suffix: s/s",
        ),
        panel(
            "Text and segments",
            "Characters spoken and audio segments sent a second.",
            "ops",
            Query(per_second("callboard_tts_characters_total", workers.POOL), "characters"),
            Query(per_second("callboard_tts_segments_total", workers.POOL), "segments"),
        ),
        counter(
            "Characters left out",
            "Characters of foreign scripts that no reader was found for, by script: words that listeners do not hear.",
            "callboard_tts_left_out_characters_total",
            workers.POOL,
            by="script",
        ),
    ),
)
JOBS = Row(
    "Jobs",
    (
        *workers.jobs("callboard_tts"),
        *spread(
            "callboard_tts_job_duration_seconds",
            "Utterance duration",
            "From a job's delivery to the worker to the end of its utterance.",
            workers.POOL,
        ),
        *spread(
            "callboard_tts_piece_audio_seconds",
            "Piece length",
            "The duration of one piece's audio; long pieces delay the first one.",
            workers.POOL,
        ),
    ),
)
ENGINES = Row(
    "Engines",
    workers.engines("callboard_tts", "kind"),
)

SPEECH = Dashboard(
    "speech",
    "Speech",
    "Is audio generated faster than it is played?",
    (AUDIO, JOBS, ENGINES, processes("callboard-tts")),
    (workers.pool_variable("callboard_tts"),),
)
