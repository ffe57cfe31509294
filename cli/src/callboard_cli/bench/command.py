"""`callboard bench`: measures an installation by its address, or two in turn."""

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from callboard_cli.bench.live import Live
from callboard_cli.bench.measurement import Measurement
from callboard_cli.bench.plan import SPEECH, Plan
from callboard_cli.bench.politeness import HARD, POLITE, Bounds, is_loopback
from callboard_cli.bench.report import print_report, write_folder
from callboard_cli.bench.results import results
from callboard_cli.bench.samples import WORKS, Work
from callboard_cli.bench.target import CONNECT_TIMEOUT_S, DNS_CACHE_S, Target
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.key_files import read_key
from callboard_cli.subcommands import Subparsers

KEY, AGAINST_KEY = "CALLBOARD_BENCH_KEY", "CALLBOARD_BENCH_AGAINST_KEY"
OPEN_AT_ONCE = 64
_LIMITED = ("at_once", "rate_per_s", "requests", "seconds", "tokens", "max_tokens")
_OPTIONS = {"rate_per_s": "rate", "think_s": "think", "timeout_s": "timeout"}


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure an installation by its address, or two in turn",
        description="Asks a server as its clients do and prints how soon the first token and the first sound come, "
        "how many tokens and seconds of sound a second, and which errors. Works with every OpenAI-compatible server; "
        "rooms are Callboard's. Ctrl-C stops it and prints what it has. The API key comes from the environment, as "
        f"{KEY}, or from a file. A host that is not this machine is asked for little, unless --allow-load names it.",
    )
    parser.add_argument("url", help="the address, such as http://127.0.0.1:8080, with or without /v1")
    parser.add_argument("--against", metavar="URL", help="a second server, which is asked the same in turn")
    parser.add_argument("--work", default=",".join(WORKS), help=f"what is measured; default: {','.join(WORKS)}")
    parser.add_argument("--requests", type=int, default=20, help="how many for each work and server; default: 20")
    parser.add_argument("--at-once", type=int, help="how many under way at once; default: 2, with --rate at most 64")
    parser.add_argument("--rate", type=float, help="requests that are due each second, whatever became of others")
    parser.add_argument("--arrivals", choices=("even", "random"), default="random", help="the gaps with --rate")
    parser.add_argument("--seconds", type=float, default=60.0, help="the longest that a work may take; default: 60")
    parser.add_argument("--tokens", type=int, default=20_000, help="the most of a work, read and written")
    parser.add_argument("--max-tokens", type=int, default=64, help="the longest reply, in tokens; default: 64")
    parser.add_argument("--temperature", type=float, help="0 makes replies of one model alike; default: the server's")
    parser.add_argument("--warm-up", type=int, default=2, help="requests before the first that counts; default: 2")
    parser.add_argument("--turns", type=int, default=4, help="turns of a conversation or in a room; default: 4")
    parser.add_argument("--think", type=float, default=2.0, help="seconds between two turns, about; default: 2")
    parser.add_argument("--listeners", type=int, default=1, help="listeners of each room; default: 1")
    parser.add_argument("--prompt-words", type=int, default=0, help="words put before each question; default: none")
    parser.add_argument("--text", default=SPEECH, help="what is spoken")
    parser.add_argument("--pairs", type=int, default=10, help="how often two servers take turns; default: 10")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds after which a request failed; default: 60")
    parser.add_argument("--seed", type=int, help="makes words and gaps the same as in another run; default: random")
    for prefix, whose in (("", ""), ("against-", "of the second server; default: the first's")):
        default = "" if prefix else "; default: the server's"
        parser.add_argument(f"--{prefix}model", help=f"the chat model {whose}{default}")
        parser.add_argument(f"--{prefix}speech-model", help=f"the speech model {whose}{default}")
        parser.add_argument(f"--{prefix}voice", help=f"the voice {whose}{default}")
        name = AGAINST_KEY if prefix else KEY
        parser.add_argument(f"--{prefix}key-file", type=Path, help=f"the file with the API key; default: {name}")
    parser.add_argument(
        "--allow-load", action="append", default=[], metavar="HOST", help="lift the small caps for this host"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write a page, a plot as PNG and the JSON there")
    parser.set_defaults(run=_run)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the arguments ask for; raises CommandError for what is not allowed."""
    at_once = arguments.at_once
    if at_once is None:
        at_once = 2 if arguments.rate is None else OPEN_AT_ONCE
        if any(bounds_of(url, arguments) is POLITE for url in _urls(arguments)):
            at_once = min(at_once, POLITE.at_once)
    plan = Plan(
        works=_works(arguments.work),
        requests=arguments.requests,
        at_once=at_once,
        rate_per_s=arguments.rate,
        arrivals=arguments.arrivals,
        seconds=arguments.seconds,
        tokens=arguments.tokens,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        warm_up=arguments.warm_up,
        turns=arguments.turns,
        think_s=arguments.think,
        listeners=arguments.listeners,
        prompt_words=arguments.prompt_words,
        text=arguments.text,
        pairs=arguments.pairs,
        timeout_s=arguments.timeout,
        seed=secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed,
    )
    for name, least, most in (
        ("warm_up", 0, 100),
        ("turns", 1, 100),
        ("think_s", 0.0, 600.0),
        ("listeners", 0, 1000),
        ("prompt_words", 0, 200_000),
        ("pairs", 1, 1000),
        ("timeout_s", 0.1, 3600.0),
        ("temperature", 0.0, 2.0),
    ):
        if (value := getattr(plan, name)) is not None:
            _check(name, value, least, most)
    for url in _urls(arguments):
        _check_bounds(plan, bounds_of(url, arguments), url)
    if not 0 < len(plan.text) <= 4096:
        raise CommandError("--text: allowed are up to 4096 characters", ExitCode.USAGE)
    return plan


def bounds_of(url: str, arguments: argparse.Namespace) -> Bounds:
    """The caps for a server: small ones for other machines, unless the operator named the host."""
    allowed = {host.lower() for host in arguments.allow_load}
    return HARD if is_loopback(url) or urlsplit(url).hostname in allowed else POLITE


def _check_bounds(plan: Plan, bounds: Bounds, url: str) -> None:
    for name in _LIMITED:
        value, most = getattr(plan, name), getattr(bounds, name)
        if value is None:
            continue
        _check(name, value, 0.001 if isinstance(most, float) else 1, getattr(HARD, name))
        if value > most:
            host = urlsplit(url).hostname
            raise CommandError(
                f"{_option(name)}: {value:g} is more than {most:g}, the most for a host that is not this machine; "
                f"if {host} may be loaded like that, add --allow-load {host}",
                ExitCode.USAGE,
            )


def _check(name: str, value: float, least: float, most: float) -> None:
    # A NaN is within no bounds.
    if not least <= value <= most:
        raise CommandError(f"{_option(name)}: found {value:g}, allowed are {least:g} to {most:g}", ExitCode.USAGE)


def _option(name: str) -> str:
    return f"--{_OPTIONS.get(name, name).replace('_', '-')}"


def _works(text: str) -> tuple[Work, ...]:
    asked = {word.strip() for word in text.split(",")}
    if not asked <= set(WORKS):
        raise CommandError(f"--work: found {text!r}, allowed are {', '.join(WORKS)}", ExitCode.USAGE)
    return tuple(work for work in WORKS if work in asked)


def _urls(arguments: argparse.Namespace) -> list[str]:
    return [url for url in (arguments.url, arguments.against) if url is not None]


def root_of(url: str) -> str:
    """The address below which a server's paths lie, without OpenAI's `/v1`; raises CommandError for no address."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        raise CommandError(f"{url!r}: allowed is an address such as http://127.0.0.1:8080", ExitCode.USAGE)
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


@asynccontextmanager
async def opened(
    url: str, key: str, number: int, plan: Plan, names: tuple[str | None, str | None, str | None]
) -> AsyncGenerator[Target]:
    """A target that was found to be there; `names` are the chat model, the speech model and the voice."""
    headers = {"User-Agent": f"Callboard:{version('callboard-cli')}:bench"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    # Places for listeners too: what waits for a connection here would count as the server's slowness.
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=DNS_CACHE_S)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, trust_env=not is_loopback(url)
    ) as session:
        target = Target(number, root_of(url), session, plan.timeout_s)
        target.model, target.speech_model, target.voice = (name or "" for name in names)
        await target.probe()
        yield target


def _run(arguments: argparse.Namespace) -> int:
    for url in _urls(arguments):
        root_of(url)
    plan = plan_of(arguments)
    keys = [read_key(KEY, arguments.key_file, os.environ)]
    if arguments.against:
        # The first server's key is no business of the second.
        keys.append(read_key(AGAINST_KEY, arguments.against_key_file, os.environ))
    found = asyncio.run(_measured(arguments, plan, keys))
    if arguments.report is not None:
        write_folder(arguments.report, found)
    if arguments.json:
        print(json.dumps(found))
    else:
        print_report(found)
        if arguments.report is not None:
            print(f"written: {arguments.report}")
    if found["interrupted"]:
        return ExitCode.INTERRUPTED
    return ExitCode.OK if any(work["succeeded"] for work in found["works"]) else ExitCode.FAILED


async def _measured(arguments: argparse.Namespace, plan: Plan, keys: list[str]) -> dict[str, Any]:
    first = arguments.model, arguments.speech_model, arguments.voice
    async with opened(arguments.url, keys[0], 0, plan, first) as target:
        if arguments.against is None:
            return await _watched(Measurement(plan, [target]))
        own = arguments.against_model, arguments.against_speech_model, arguments.against_voice
        second = tuple(name or shared for name, shared in zip(own, first, strict=True))
        async with opened(arguments.against, keys[1], 1, plan, (second[0], second[1], second[2])) as other:
            return await _watched(Measurement(plan, [target, other]))


async def _watched(measurement: Measurement) -> dict[str, Any]:
    """Measures while progress is told, until the end or a signal."""
    async with asyncio.TaskGroup() as group:
        telling = group.create_task(Live(measurement, sys.stderr).run())
        measuring = group.create_task(measurement.run())
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        # Only the main thread hears signals.
        heard = numbers if threading.current_thread() is threading.main_thread() else ()
        for number in heard:
            loop.add_signal_handler(number, measuring.cancel)
        try:
            await measuring
        finally:
            for number in heard:
                loop.remove_signal_handler(number)
            telling.cancel()
    return results(measurement)
