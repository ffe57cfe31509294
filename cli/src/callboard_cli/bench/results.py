"""The results of a measurement, as one JSON object from which tables, plots and pages are made."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from callboard_cli.bench.load import Load
from callboard_cli.bench.measurement import Measurement
from callboard_cli.bench.samples import Sample
from callboard_cli.bench.statistics import middle, ratio, summary

FORMAT = 1
MAX_KINDS = 50
TO_FIRST = "gen_ai.client.operation.time_to_first_chunk"
DURATION = "gen_ai.client.operation.duration"
# What a client sees has no word of OpenTelemetry's conventions here: theirs are for chunks, whatever is in them.
FOR_EACH = "callboard.client.time_per_output_token"
FIRST_SOUND = "callboard.client.time_to_first_sound"
Metric = Callable[[Sample], float | None]


def metrics_of(work: str) -> dict[str, Metric]:
    """The durations of a work by their names."""
    duration: Metric = lambda sample: sample.duration_s  # noqa: E731 - one of a row
    if work in {"chat", "conversations"}:
        return {
            TO_FIRST: lambda sample: sample.to_first_s,
            FOR_EACH: lambda sample: sample.per_token_s,
            DURATION: duration,
        }
    return {FIRST_SOUND: lambda sample: sample.to_first_s, DURATION: duration}


def results(measurement: Measurement) -> dict[str, Any]:
    """Everything that was found out, in the form that `--json` prints."""
    plan, loads = measurement.plan, measurement.loads
    medians = [found for load in loads if (found := middle(values(load, lambda one: one.to_first_s))) is not None]
    generator = measurement.meter.judged(min(medians, default=None))
    doubts = [*generator.doubts, *(_unsent(load) for load in loads if load.never_sent)]
    return {
        "format": FORMAT,
        "started": measurement.started.isoformat(timespec="seconds"),
        "interrupted": measurement.interrupted,
        "plan": dataclasses.asdict(plan),
        "targets": [
            {
                "url": target.root,
                "callboard": target.is_callboard,
                "model": target.model,
                "speech_model": target.speech_model,
                "voice": target.voice if target.speech_model else "",
            }
            for target in measurement.targets
        ],
        "left_out": dict(measurement.left_out),
        "works": [_work(load) for load in loads],
        "comparison": _comparison(measurement) if len(measurement.targets) > 1 else [],
        "generator": {
            "lag": _dict(generator.lag),
            "processor_share": round(generator.processor_share, 3),
            "believable": not doubts,
            "doubts": doubts,
        },
        "notes": [note for load in loads for note in _notes(load)],
        "samples": [_sample(one, measurement.begun_s) for load in loads for one in load.samples],
    }


def good(load: Load) -> list[Sample]:
    """The requests that succeeded: what failed early must not look fast."""
    return [sample for sample in load.samples if sample.failure is None]


def values(load: Load, metric: Metric, pair: int | None = None) -> list[float]:
    """What a metric says of the requests that succeeded, of one pair or of all."""
    samples = (one for one in good(load) if pair is None or one.pair == pair)
    return [found for one in samples if (found := metric(one)) is not None]


def _work(load: Load) -> dict[str, Any]:
    done = good(load)
    window_s = max(load.window_s, 1e-9)
    tokens, audio_s = sum(one.output_tokens for one in done), sum(one.audio_s for one in done)
    by_turn = sorted({one.turn for one in done})
    turns = {
        str(turn): _dict(summary([one.to_first_s for one in done if one.turn == turn and one.to_first_s is not None]))
        for turn in (by_turn if load.work == "conversations" else ())
    }
    return {
        "work": load.work,
        "target": load.target.number,
        "url": load.target.root,
        "requests": len(load.samples),
        "succeeded": len(done),
        "cut_off": load.cut_off,
        "never_sent": load.never_sent,
        "ended_by": load.backoff.gave_up or load.allowance.ended_by,
        "pauses": {"count": load.backoff.pauses, "seconds": round(load.backoff.paused_s, 3)},
        "window_s": round(load.window_s, 3),
        "durations": {name: _dict(summary(values(load, metric))) for name, metric in metrics_of(load.work).items()},
        "first_by_turn": turns,
        "sent_late": _dict(summary([one.sent_s - one.due_s for one in load.samples])),
        "requests_per_s": round(len(done) / window_s, 3),
        "output_tokens": tokens,
        "output_tokens_per_s": round(tokens / window_s, 3),
        "tokens_counted_by": sorted({one.counted_by for one in done if one.output_tokens}),
        "audio_s": round(audio_s, 3),
        "audio_s_per_s": round(audio_s / window_s, 3),
        "underruns": {
            "count": sum(one.underruns for one in done),
            "seconds": round(sum(one.underrun_s for one in done), 3),
            "requests": sum(one.underruns > 0 for one in done),
        },
        "errors": _errors(load.samples),
    }


def _errors(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    failures = [one.failure for one in samples if one.failure is not None]
    examples = {failure.kind: failure for failure in reversed(failures)}
    counted = Counter(failure.kind for failure in failures).most_common()
    shown = [
        {
            "kind": kind,
            "status": examples[kind].status,
            "code": examples[kind].code,
            "count": count,
            "example": examples[kind].example,
        }
        for kind, count in counted[:MAX_KINDS]
    ]
    if rest := sum(count for _, count in counted[MAX_KINDS:]):
        shown.append({"kind": "others", "status": None, "code": "others", "count": rest, "example": ""})
    return shown


def _unsent(load: Load) -> str:
    count, where = load.never_sent, f"{load.work} at {load.target.root}"
    return f"{where}: {count} requests were due and never sent: the real waits were longer"


def _notes(load: Load) -> list[str]:
    where = f"{load.work} at {load.target.root}"
    found: list[str] = []
    if load.waited_for_place:
        found.append(
            f"{where}: {load.waited_for_place} requests waited because {load.plan.at_once} were under way (--at-once); "
            "their wait is counted"
        )
    if load.backoff.pauses:
        found.append(f"{where}: paused {load.backoff.paused_s:.1f} s because the server refused; pauses do not count")
    if load.backoff.gave_up:
        found.append(f"{where}: stopped, since {load.backoff.gave_up}")
    elif load.allowance.ended_by:
        found.append(f"{where}: stopped by --{load.allowance.ended_by}")
    if load.cut_off:
        found.append(f"{where}: {load.cut_off} requests were under way when it was stopped, and do not count")
    if any(one.counted_by == "chunks" and one.output_tokens for one in good(load)) and load.work != "rooms":
        found.append(f"{where}: the server sends no usage, so that pieces of the stream are counted as tokens")
    return found


def _comparison(measurement: Measurement) -> list[dict[str, Any]]:
    """The second target's middle value in each pair of blocks, as a multiple of the first's."""
    found: list[dict[str, Any]] = []
    for work in measurement.works:
        loads = [load for load in measurement.loads if load.work == work]
        if len(loads) != 2:
            continue
        pairs = sorted({one.pair for one in loads[0].samples} & {one.pair for one in loads[1].samples})
        measured: dict[str, list[list[float | None]]] = {
            name: [[middle(values(load, metric, pair)) for load in loads] for pair in pairs]
            for name, metric in metrics_of(work).items()
        }
        for name, count in _COUNTS.items():
            measured[name] = [[_rate(load, count, pair) for load in loads] for pair in pairs]
        for name, middles in measured.items():
            compared = ratio([(a, b) for a, b in middles if a is not None and b is not None])
            if compared is not None:
                found.append({"work": work, "metric": name, **dataclasses.asdict(compared)})
    return found


_COUNTS: dict[str, Callable[[Sample], float]] = {
    "output_tokens_per_s": lambda sample: sample.output_tokens,
    "audio_s_per_s": lambda sample: sample.audio_s,
}


def _rate(load: Load, count: Callable[[Sample], float], pair: int) -> float | None:
    window_s = load.windows_s.get(pair, 0.0)
    return sum(count(one) for one in good(load) if one.pair == pair) / window_s if window_s > 0 else None


def _dict(value: Any) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)


def _sample(one: Sample, begun_s: float) -> dict[str, Any]:
    first_s, per = one.to_first_s, round(one.due_s - begun_s, 6)
    return {
        "work": one.work,
        "target": one.target,
        "due_s": per,
        "first_s": None if first_s is None else round(first_s, 6),
        "duration_s": round(one.duration_s, 6),
        "turn": one.turn,
        "error": None if one.failure is None else one.failure.kind,
    }
