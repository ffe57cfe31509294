"""Speech to text: is speech written down faster than it is spoken?"""

from deploy.observability.definitions import workers
from deploy.observability.panels import Dashboard, Query, Row, counter, panel, per_second, processes, spread

TEXT = Row(
    "Text",
    (
        *spread(
            "callboard_stt_time_to_first_segment_seconds",
            "First segment",
            "From a job's delivery to the worker to its first text.",
            workers.POOL,
        ),
        *spread(
            "callboard_stt_real_time_factor_ratio",
            "Real-time factor",
            "The engine's time for a whole sound divided by the duration of the sound.",
            workers.POOL,
            unit="suffix: ×",
            limits=((1, "red"),),
            runbook="recognition-slower-than-real-time",
        ),
        *spread(
            "callboard_stt_decode_seconds",
            "Decoding",
            "The time that files took to decode, in processes beside the worker.",
            workers.POOL,
        ),
        counter(
            "Sound rate",
            "Seconds of sound written down a second, as they are charged.",
            "callboard_stt_heard_seconds_total",
            workers.POOL,
            unit="suffix: s/s",
        ),
        panel(
            "Words and silence",
            "Words written down a second, and sounds in which nobody spoke.",
            "ops",
            Query(per_second("callboard_stt_words_total", workers.POOL), "words"),
            Query(per_second("callboard_stt_speechless_total", workers.POOL), "without speech"),
        ),
        counter(
            "Refused files",
            "Files that were not written down: a *silent_film* without sound, *unreadable*, or *too_long*.",
            "callboard_stt_unreadable_total",
            workers.POOL,
            by="reason",
        ),
    ),
)
JOBS = Row(
    "Jobs",
    (
        *workers.jobs("callboard_stt"),
        *spread(
            "callboard_stt_job_duration_seconds",
            "Job duration",
            "From a job's delivery to the worker to the end of its text.",
            workers.POOL,
        ),
        *spread(
            "callboard_stt_sound_seconds",
            "Sound length",
            "The duration of the sounds that clients send.",
            workers.POOL,
        ),
    ),
)
ENGINES = Row(
    "Engines",
    workers.engines("callboard_stt", "kind"),
)

RECOGNITION = Dashboard(
    "recognition",
    "Speech to text",
    "Is speech written down faster than it is spoken?",
    (TEXT, JOBS, ENGINES, processes("callboard-stt")),
    (workers.pool_variable("callboard_stt"),),
)
