"""All figures of a speech worker."""

from prometheus_client import Counter, Histogram

from callboard_worker.metrics import WorkerMetrics

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 120, 300)

TIME_TO_FIRST_AUDIO = Histogram(
    "callboard_tts_time_to_first_audio_seconds",
    "From a job's arrival at the worker to its first segment of sound.",
    buckets=_SECONDS,
)
JOB_DURATION = Histogram(
    "callboard_tts_job_duration_seconds",
    "From a job's arrival at the worker to the end of its utterance.",
    buckets=_SECONDS,
)
REAL_TIME_FACTOR = Histogram(
    "callboard_tts_real_time_factor_ratio",
    "The engine's time for a piece divided by the length of its sound; above 1 a listener has to wait.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 5),
)
PIECE_DURATION = Histogram(
    "callboard_tts_piece_audio_seconds",
    "The length of a piece's sound.",
    buckets=(0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 60),
)
LANE_WAIT = Histogram(
    "callboard_tts_lane_wait_seconds",
    "How long a piece waited until an engine lane was free for it.",
    buckets=_SECONDS,
)
REFUSED = Counter(
    "callboard_tts_refused_total",
    "Utterances refused before any sound, because the engine could not have kept them fed beside the others.",
)
UNDERRUN = Counter(
    "callboard_tts_underruns_total", "Pieces that were ready only after all sound before them had been played."
)
AUDIO = Counter("callboard_tts_audio_seconds_total", "Sound sent to listeners.")
CHARACTERS = Counter(
    "callboard_tts_characters_total", "Characters of text that were spoken, in the words that they became."
)
LEFT_OUT = Counter(
    "callboard_tts_left_out_characters_total",
    "Characters of a foreign script that were left out, because no reader for them was found.",
    ["script"],
)
SEGMENTS = Counter("callboard_tts_segments_total", "Segments of sound sent.")
ENGINE_ERRORS = Counter(
    "callboard_tts_engine_errors_total", "Failures of the engine by their kind.", ["backend", "kind"]
)

WORKER = WorkerMetrics("callboard_tts", ("stream", "edge", "nowhere"))
