"""What `callboard bench` makes of samples: statistics, tables, plots and pages; and what it refuses to do."""

import io
import json
import re
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_cli.__main__ import main, parser
from callboard_cli.bench.command import plan_of, root_of
from callboard_cli.bench.generator import LagMeter
from callboard_cli.bench.load import Load
from callboard_cli.bench.measurement import Measurement, blocks_of
from callboard_cli.bench.picture import SCALE, png
from callboard_cli.bench.player import MAX_HEADER_BYTES, Player, WavHeader
from callboard_cli.bench.plot import plot_of, steps
from callboard_cli.bench.politeness import LONGEST_PAUSE_S, MAX_REFUSALS, Allowance, Backoff, is_loopback
from callboard_cli.bench.report import page, print_report
from callboard_cli.bench.results import results
from callboard_cli.bench.samples import Failure, Sample, printable
from callboard_cli.bench.scene import COLOURS
from callboard_cli.bench.statistics import percentile, ratio, summary
from callboard_cli.bench.target import Target
from callboard_cli.failures import CommandError, ExitCode

pytestmark = [pytest.mark.unit, pytest.mark.timeout(30)]

HERE, FAR = "http://127.0.0.1:8080", "https://voices.example"
NASTY = "<script>alert(1)</script>\x1b[2J & more"


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200), st.floats(0, 1))
def test_a_percentile_is_a_measured_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < max(1.0, share * len(values) + 1e-9)


def test_a_percentile_that_the_count_does_not_carry_is_left_out() -> None:
    few, some, many = (summary([float(n) for n in range(1, count + 1)]) for count in (9, 10, 100))
    assert few is not None
    assert some is not None
    assert many is not None
    assert (few.p50, few.p90, few.p99, few.max) == (5, None, None, 9)
    assert (some.p90, some.p99) == (9, None)
    assert (many.p50, many.p90, many.p99, many.mean) == (50, 90, 99, 50.5)
    assert summary([]) is None


def test_pairs_are_compared_by_their_ratios_and_not_by_their_sums() -> None:
    # The machine was ten times slower during the last pair, for both.
    found = ratio([(1, 2), (1, 2), (1, 1.8), (10, 20), (0, 5)])
    assert found is not None
    assert (found.pairs, found.median, found.least, found.most, found.second_larger) == (4, 2, 1.8, 2, 4)
    assert ratio([(0, 1)]) is None


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_blocks_hold_every_item_once_and_fill_what_is_asked_at_once(items: int, at_once: int, pairs: int) -> None:
    blocks = blocks_of(items, at_once, pairs)
    assert [n for block in blocks for n in block] == list(range(items))
    assert len(blocks) <= pairs
    assert len(blocks) == 1 or min(map(len, blocks)) >= at_once


def test_a_player_that_starts_at_once_notes_each_silence() -> None:
    player = Player(bytes_per_s=1000)
    for at_s, size in ((10.0, 500), (10.4, 100), (10.605, 100), (11.0, 100)):
        player.feed(at_s, size)
    # Half a second and a tenth last until 10.6; five milliseconds are no gap, three tenths are one.
    assert player.audio_s == pytest.approx(0.8)
    assert player.underruns == 1
    assert player.underrun_s == pytest.approx(0.005 + 0.295)


def wav(sound: bytes, *, extra: bytes = b"") -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 24_000, 48_000, 2, 16)
    return b"RIFF\xff\xff\xff\xffWAVE" + form + extra + struct.pack("<4sI", b"data", 0xFFFFFFFF) + sound


@pytest.mark.parametrize("size", [1, 7, 44, 1000])
def test_a_wav_file_is_understood_however_it_is_cut(size: int) -> None:
    data = wav(b"sound!" * 10, extra=struct.pack("<4sI", b"LIST", 3) + b"abc\0")
    header = WavHeader()
    heard = b"".join(header.sound_in(data[n : n + size]) for n in range(0, len(data), size))
    assert heard == b"sound!" * 10
    assert header.bytes_per_s == 48_000


@pytest.mark.parametrize("data", [b"ID3\x04", b"RIFF1234WAVE" + struct.pack("<4sI", b"data", 2) + b"xx"])
def test_what_is_no_wav_file_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ValueError, match="WAV"):
        WavHeader().sound_in(data)


def test_a_header_without_end_is_given_up() -> None:
    endless = b"RIFF1234WAVE" + struct.pack("<4sI", b"LIST", 0xFFFFFFFF)
    with pytest.raises(ValueError, match="without sound"):
        WavHeader().sound_in(endless + bytes(MAX_HEADER_BYTES))


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:80/v1", True),
        ("http://localhost:8080", True),
        ("http://localhost.example", False),
        ("http://0.0.0.0:8080", False),
        ("http://192.168.1.7", False),
        (FAR, False),
    ],
)
def test_only_this_machine_is_this_machine(url: str, near: bool) -> None:
    assert is_loopback(url) is near


@pytest.mark.parametrize(
    "words",
    [
        ("--at-once", "5"),
        ("--rate", "3"),
        ("--requests", "101"),
        ("--seconds", "121"),
        ("--tokens", "50001"),
        ("--max-tokens", "513"),
    ],
)
def test_another_machine_is_not_loaded_unless_it_is_named(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", FAR, *words]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"callboard: {words[0]}: ")
    assert "--allow-load voices.example" in said
    # Neither is a second server.
    with pytest.raises(CommandError):
        plan(HERE, "--against", FAR, *words)
    # Who names another host has not named this one.
    with pytest.raises(CommandError):
        plan(FAR, "--allow-load", "example", *words)
    assert plan(HERE, *words) == plan(FAR, "--allow-load", "VOICES.example", *words)


@pytest.mark.parametrize(
    "words",
    [
        ("--at-once", "0"),
        ("--at-once", "1001"),
        ("--rate", "nan"),
        ("--rate", "0"),
        ("--seconds", "-1"),
        ("--seconds", "inf"),
        ("--turns", "0"),
        ("--think", "-1"),
        ("--warm-up", "-1"),
        ("--listeners", "1001"),
        ("--prompt-words", "-1"),
        ("--pairs", "0"),
        ("--timeout", "0"),
        ("--temperature", "-0.1"),
        ("--work", "chat,dance"),
        ("--text", ""),
        ("--text", "x" * 4097),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", HERE, *words]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith(f"callboard: {words[0]}: ")


@pytest.mark.parametrize("url", ["voices.example", "ftp://voices.example", "http://", "http://a:b@c", "http://a/?x=1"])
def test_what_is_no_address_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", url]) == ExitCode.USAGE
    assert "allowed is an address" in capsys.readouterr().err


def test_the_version_segment_is_no_part_of_a_root() -> None:
    assert [root_of(f"{HERE}{end}") for end in ("", "/", "/v1", "/v1/", "/proxy/v1")] == [*[HERE] * 4, f"{HERE}/proxy"]


def test_an_open_load_of_another_machine_stays_polite_by_default() -> None:
    assert plan(HERE).at_once == 2
    assert plan(HERE, "--rate", "1").at_once == 64
    assert plan(FAR, "--rate", "1").at_once == plan(HERE, "--against", FAR, "--rate", "1").at_once == 4


def test_an_allowance_ends_by_tokens_before_they_are_overrun() -> None:
    allowance = Allowance(requests=10, tokens=100, seconds=60)
    assert allowance.take(60)
    allowance.settle(60, 50)
    assert allowance.take(50)
    assert not allowance.take(1)
    assert allowance.ended_by == "tokens"
    few = Allowance(requests=1, tokens=100, seconds=60)
    assert few.take(1)
    assert not few.take(1)
    # All were sent, which is no cap that ended it.
    assert few.ended_by is None
    assert not Allowance(requests=1, tokens=100, seconds=0).take(1)


async def test_pauses_are_as_long_as_the_server_asks_or_double_each_time() -> None:
    backoff = Backoff()
    backoff.refused(503, None)
    assert not await backoff.wait()
    backoff.refused(503, 0.02)
    # Another one that was under way meanwhile.
    backoff.refused(429, 0.01)
    assert await backoff.wait()
    assert backoff.paused_s == pytest.approx(0.02, abs=0.01)
    assert backoff.pauses == 1
    for _ in range(MAX_REFUSALS - 1):
        backoff.refused(429, 0.0)
    assert backoff.gave_up == f"it refused {MAX_REFUSALS} times in a row"
    patient = Backoff()
    patient.refused(429, LONGEST_PAUSE_S + 1)
    assert patient.gave_up == "it asks for 31 s of quiet"
    assert not await patient.wait()


def test_a_busy_generator_doubts_its_own_figures() -> None:
    idle = LagMeter().judged(0.01)
    assert idle.believable
    meter = LagMeter()
    cast(Any, meter)._lags_s += [0.02] * 100
    late = meter.judged(0.05)
    assert not late.believable
    assert "20.0 ms late" in late.doubts[0]
    # A lag is judged beside what was measured.
    assert meter.judged(1.0).believable


@given(st.floats(1e-6, 1e9))
def test_axes_have_a_few_round_steps_that_reach_the_longest_value(longest: float) -> None:
    found = steps(longest)
    assert found[0] == 0
    assert found[-1] >= longest * 0.998
    assert 3 <= len(found) <= 6
    assert len({round((b - a) / found[1], 6) for a, b in pairwise(found)}) == 1


def plan(url: str, *words: str) -> Any:
    return plan_of(parser().parse_args(["bench", url, "--seed", "1", *words]))


def measured(samples: Sequence[Sample], *words: str, roots: Sequence[str] = (HERE,)) -> dict[str, Any]:
    """The results of samples that nobody measured."""
    targets = [Target(n, root, cast(Any, None), 1.0, model="owl") for n, root in enumerate(roots)]
    measurement = Measurement(plan(HERE, "--work", "chat", *words), targets)
    for target in targets:
        load = Load(measurement.plan, "chat", target)
        load.samples = [one for one in samples if one.target == target.number]
        load.windows_s = dict.fromkeys({one.pair for one in load.samples}, 2.0)
        measurement.loads.append(load)
    return results(measurement)


def reply(due_s: float, first_s: float, end_s: float, *, target: int = 0, pair: int = 0) -> Sample:
    return Sample("chat", target, due_s, first_s=first_s, end_s=end_s, output_tokens=5, pair=pair)


def test_failed_requests_are_counted_by_kind_and_never_make_a_server_look_fast() -> None:
    failed = [
        Sample("chat", 0, 0.0, end_s=0.001, failure=Failure(code, status, NASTY))
        for code, status in (("rate_limited", 429), ("rate_limited", 429), ("timeout", None), ("rate_limited", 503))
    ]
    found = measured([reply(0.0, 0.5, 1.5), *failed])
    (work,) = found["works"]
    assert [(one["kind"], one["count"]) for one in work["errors"]] == [
        ("429 rate_limited", 2),
        ("timeout", 1),
        ("503 rate_limited", 1),
    ]
    durations = work["durations"]
    assert durations["gen_ai.client.operation.time_to_first_chunk"]["p50"] == 0.5
    assert durations["callboard.client.time_per_output_token"]["p50"] == 0.25
    assert durations["gen_ai.client.operation.duration"]["count"] == 1
    assert (work["requests_per_s"], work["output_tokens_per_s"]) == (0.5, 2.5)


def test_kinds_of_errors_are_bounded() -> None:
    failed = [Sample("chat", 0, 0.0, failure=Failure(f"code{n}", 500)) for n in range(80)]
    errors = measured(failed)["works"][0]["errors"]
    assert len(errors) == 51
    assert (errors[-1]["kind"], errors[-1]["count"]) == ("others", 30)


def test_two_servers_are_compared_pair_by_pair() -> None:
    samples = [
        reply(0.0, first, first + 1, target=target, pair=pair)
        for pair, slow in enumerate((1.0, 5.0, 2.0))
        for target, first in ((0, 0.1 * slow), (1, 0.2 * slow))
    ]
    found = measured(samples, roots=(HERE, FAR))
    compared = {one["metric"]: one for one in found["comparison"]}["gen_ai.client.operation.time_to_first_chunk"]
    assert (compared["pairs"], compared["second_larger"]) == (3, 3)
    assert compared["median"] == compared["least"] == pytest.approx(2.0)


def nasty() -> dict[str, Any]:
    bad = Sample("chat", 0, 0.1, end_s=0.2, failure=Failure("x", 500, printable(NASTY)))
    found = measured([reply(0.0, 0.05, 0.2), reply(0.3, 9.0, 9.5), bad])
    found["targets"][0]["model"] = NASTY
    found["works"][0]["url"] = found["targets"][0]["url"] = f"{HERE}/<b>"
    return found


def test_a_page_escapes_what_servers_say_and_asks_no_other_host() -> None:
    text = page(nasty())
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[\w.-]+", text)) == {"http://127.0.0.1"}
    assert not [word for word in ("src=", "href=", "url(", "@import") if word in text]


def test_a_terminal_gets_no_control_signs_of_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    found = nasty()
    found["targets"][0]["model"] = printable(NASTY)
    print_report(found)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "500 x" in said
    assert len(printable("x" * 10_000)) == 200


def test_the_picture_is_a_png_that_shows_each_request() -> None:
    found = nasty()
    scene = plot_of(found)
    assert sum(mark.cross for mark in scene.marks) == 1
    assert len(scene.marks) == 3
    with av.open(io.BytesIO(png(scene)), "r") as file:
        (frame,) = file.decode(video=0)
        assert (frame.width, frame.height) == (scene.width * SCALE, scene.height * SCALE)
        dots = frame.to_ndarray(format="rgb24")
    for paint in ("ink", "faint", "first", "wrong"):
        assert (dots == list(bytes.fromhex(COLOURS[paint][1:]))).all(axis=2).any(), paint


def test_a_measurement_without_an_answer_is_still_reported(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured([])
    print_report(found)
    assert "too short to be judged" in capsys.readouterr().out
    assert png(plot_of(found))
    assert json.loads(json.dumps(found))["works"][0]["succeeded"] == 0
