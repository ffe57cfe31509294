"""Speech: is sound made faster than it is played?"""

from deploy.observability.panels import Board, Panel, Query, Row, of, per_second, processes, spread, total

SPEECH = Board(
    "speech",
    "Speech",
    "Is sound made faster than it is played?",
    (
        Row(
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
                Panel(
                    "Underruns",
                    "Pieces that were ready only after all sound before them had been played: unwritten pauses.",
                    "ops",
                    (Query(per_second("callboard_tts_underruns_total"), "underruns"),),
                    runbook="speech-slower-than-real-time",
                ),
                Panel(
                    "Sound",
                    "Seconds of sound sent a second; as many listeners can hear at once.",
                    "suffix: s/s",
                    (Query(per_second("callboard_tts_audio_seconds_total"), "sound"),),
                ),
                Panel(
                    "Text and segments",
                    "Characters spoken, and segments of sound sent, a second.",
                    "ops",
                    (
                        Query(per_second("callboard_tts_characters_total"), "characters"),
                        Query(per_second("callboard_tts_segments_total"), "segments"),
                    ),
                ),
            ),
        ),
        Row(
            "Jobs",
            (
                Panel(
                    "Jobs by outcome",
                    "Utterances ended a second: *stop* is a whole one, *dead* was handed out too often, else an error.",
                    "ops",
                    (Query(per_second("callboard_tts_jobs_total", by="outcome"), "{{outcome}}"),),
                    stacked=True,
                    runbook="jobs-dead",
                ),
                *spread(
                    "callboard_tts_queue_wait_seconds",
                    "Queue wait",
                    "From the posting of a job to its arrival at a worker.",
                    limits=((30, "red"),),
                    runbook="queue-wait-long",
                ),
                Panel(
                    "Slots in use",
                    "The share of all workers' slots that run a job; near 1 new jobs wait.",
                    "percentunit",
                    (Query(f"{total('callboard_tts_slots_used')} / {total('callboard_tts_slots_limit')}", "in use"),),
                    "stat",
                    4,
                    limits=((0.8, "orange"), (1, "red")),
                    runbook="queue-wait-long",
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
                Panel(
                    "Taken over",
                    "Jobs taken over from a lost worker, by where their past was found; *nowhere* began anew.",
                    "ops",
                    (Query(per_second("callboard_tts_resumed_total", by="source"), "{{source}}"),),
                    width=12,
                    runbook="jobs-redelivered",
                ),
                Panel(
                    "Extensions",
                    "Further holds asked for while speaking: *refused* by a limit, *unheld* where the site lets sound "
                    "go on without quota, *failed* where quota stayed away.",
                    "ops",
                    (Query(per_second("callboard_tts_hold_extensions_total", by="outcome"), "{{outcome}}"),),
                    width=12,
                    runbook="quota-unreachable",
                ),
                Panel(
                    "Slots",
                    "Jobs that run, and how many may, over all workers.",
                    "short",
                    (
                        Query(total("callboard_tts_slots_used"), "used"),
                        Query(total("callboard_tts_slots_limit"), "limit"),
                    ),
                    width=12,
                ),
            ),
        ),
        Row(
            "Engines",
            (
                Panel(
                    "Engines ready",
                    "Workers whose engine can work, by backend.",
                    "short",
                    (Query(total("callboard_tts_engine_ready", by="backend"), "{{backend}}"),),
                    "stat",
                    4,
                    limits=((1, "green"),),
                    good_above=True,
                    runbook="engine-down",
                ),
                Panel(
                    "Engine errors",
                    "Failures of the engine, by backend and kind, also those that a repeat put right.",
                    "ops",
                    (
                        Query(
                            per_second("callboard_tts_engine_errors_total", by="backend, kind"), "{{backend}} {{kind}}"
                        ),
                    ),
                    runbook="engine-down",
                ),
                Panel(
                    "Engine retries",
                    "Repeated calls of the engine.",
                    "ops",
                    (Query(per_second("callboard_tts_engine_retries_total", by="backend"), "{{backend}}"),),
                ),
                Panel(
                    "Loading",
                    "How long each worker's engine took to load and warm up.",
                    "s",
                    (Query(of("callboard_tts_engine_load_seconds"), "{{instance}} {{backend}}"),),
                    "stat",
                    4,
                ),
                *spread(
                    "callboard_tts_cancel_seconds",
                    "Time to stop",
                    "From the order to stop an utterance to the engine's standing still; 0.25 s is promised.",
                    limits=((0.25, "red"),),
                ),
            ),
        ),
        processes("callboard-tts"),
    ),
)
