"""Speech: is sound made faster than it is played?"""

from deploy.observability.definitions import workers
from deploy.observability.panels import Board, Query, Row, counter, of, panel, per_second, processes, spread

LISTENERS = Row(
    "Listeners",
    (
        *spread(
            "callboard_tts_time_to_first_audio_seconds",
            "First audio",
            "From a job's arrival at the worker to its first segment of sound.",
            runbook="first-audio-slow",
        ),
        *spread(
            "callboard_tts_real_time_factor_ratio",
            "Real-time factor",
            "The engine's time for a piece divided by the length of its sound; above 1 a listener has to wait.",
            unit="suffix: ×",
            limits=((1, "red"),),
            runbook="speech-slower-than-real-time",
        ),
        counter(
            "Underruns",
            "Pieces that were ready only after all sound before them had been played: unwritten pauses.",
            "callboard_tts_underruns_total",
            runbook="speech-slower-than-real-time",
        ),
        counter(
            "Sound",
            "Seconds of sound sent a second; as many listeners can hear at once.",
            "callboard_tts_audio_seconds_total",
            unit="suffix: s/s",
        ),
        panel(
            "Text and segments",
            "Characters spoken, and segments of sound sent, a second.",
            "ops",
            Query(per_second("callboard_tts_characters_total"), "characters"),
            Query(per_second("callboard_tts_segments_total"), "segments"),
        ),
    ),
)
JOBS = Row(
    "Jobs",
    (
        *workers.jobs("callboard_tts"),
        counter(
            "Extensions",
            "Further holds asked for while speaking: *refused* by a limit, *unheld* where the site lets sound "
            "go on without quota, *failed* where quota stayed away.",
            "callboard_tts_hold_extensions_total",
            by="outcome",
            runbook="quota-unreachable",
        ),
        *spread(
            "callboard_tts_job_duration_seconds",
            "Whole utterance",
            "From a job's arrival at the worker to the end of its utterance.",
        ),
        *spread(
            "callboard_tts_piece_audio_seconds",
            "Length of a piece",
            "How long the sound of one piece of text is; long pieces make the first one late.",
        ),
    ),
)
ENGINES = Row(
    "Engines",
    (
        *workers.engines("callboard_tts", "kind"),
        panel(
            "Loading",
            "How long each worker's engine took to load and warm up.",
            "s",
            Query(of("callboard_tts_engine_load_seconds"), "{{instance}} {{backend}}"),
            kind="stat",
            width=4,
        ),
    ),
)

SPEECH = Board(
    "speech",
    "Speech",
    "Is sound made faster than it is played?",
    (LISTENERS, JOBS, ENGINES, processes("callboard-tts")),
)
