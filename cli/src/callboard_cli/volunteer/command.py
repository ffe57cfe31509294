"""`callboard volunteer`: lends an engine to a Callboard or an AI Horde."""

import argparse
import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from callboard_cli.failures import CommandError, ExitCode, Interrupted
from callboard_cli.key_files import read_key
from callboard_cli.subcommands import Subparsers
from callboard_cli.volunteer.engines import KINDS, Engine, find_engine
from callboard_cli.volunteer.errors import EngineFailed
from callboard_cli.volunteer.server import HordeServer, NoJson, ServerAway, ServerSilent
from callboard_cli.volunteer.worker import Offer, Refused, Volunteer

KEY = "CALLBOARD_VOLUNTEER_KEY"
ENGINE_KEY = "CALLBOARD_VOLUNTEER_ENGINE_KEY"
DEFAULT_MAX_LENGTH = 512
DEFAULT_CONTEXT_TOKENS = 4096
MAX_THREADS = 50
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "volunteer",
        help="lend an engine of this machine to a Callboard or an AI Horde",
        description="Fetches jobs over HTTPS, has the engine write them and hands the texts in. Nothing listens, so it "
        "works from behind any firewall. SIGTERM or Ctrl-C ends it once the jobs at hand are done; a second one "
        f"hands them back. The API key comes from the environment, as {KEY}, or from a file.",
    )
    parser.add_argument("--server", required=True, help="the address to work for, such as https://voices.example")
    parser.add_argument("--engine", required=True, help="the engine's address, such as http://127.0.0.1:5001")
    parser.add_argument("--name", required=True, help="the name of this volunteer, which belongs to your account")
    parser.add_argument("--kind", choices=KINDS, help="what the engine is; default: what it turns out to be")
    parser.add_argument("--model", help="the engine's model; needed where it has several")
    parser.add_argument("--offer", help="the name that the model is offered under; default: the engine's")
    parser.add_argument("--max-length", type=int, default=DEFAULT_MAX_LENGTH, help="the longest text, in tokens")
    parser.add_argument(
        "--max-context",
        type=int,
        help=f"the longest context, in tokens; default: the engine's, else {DEFAULT_CONTEXT_TOKENS}",
    )
    parser.add_argument("--threads", type=int, default=1, help="how many jobs are written at once; default: 1")
    parser.add_argument("--priority", action="append", default=[], metavar="USER#ID", help="whose jobs come first")
    parser.add_argument("--no-nsfw", action="store_true", help="take no jobs that are marked as not safe for work")
    parser.add_argument("--contact", default="unknown", help="how operators reach you; told to the server")
    parser.add_argument("--key-file", type=Path, help=f"the file with the API key; default: {KEY}, {KEY}_FILE")
    parser.add_argument(
        "--engine-key-file", type=Path, help=f"the file with the engine's key, if any; default: {ENGINE_KEY}"
    )
    parser.set_defaults(run=_run)


def _checked(arguments: argparse.Namespace) -> None:
    for option in ("server", "engine"):
        parts = urlsplit(getattr(arguments, option))
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CommandError(f"--{option}: allowed is an address such as http://127.0.0.1:5001", ExitCode.USAGE)
    if not _NAME.fullmatch(arguments.name):
        raise CommandError("--name: allowed are up to 100 characters", ExitCode.USAGE)
    for option, value, least, most in (
        ("max-length", arguments.max_length, 16, 4096),
        ("max-context", arguments.max_context, 80, 1_048_576),
        ("threads", arguments.threads, 1, MAX_THREADS),
    ):
        if value is not None and not least <= value <= most:
            raise CommandError(f"--{option}: found {value}, allowed are {least} to {most}", ExitCode.USAGE)


def _run(arguments: argparse.Namespace) -> int:
    _checked(arguments)
    key = read_key(KEY, arguments.key_file, os.environ)
    if not key:
        raise CommandError(f"no API key; set {KEY}, or give a file by --key-file", ExitCode.USAGE)
    return asyncio.run(_work(arguments, key, read_key(ENGINE_KEY, arguments.engine_key_file, os.environ)))


async def _work(arguments: argparse.Namespace, key: str, engine_key: str) -> int:
    async with AsyncExitStack() as stack:
        # The server may lie behind a proxy; the engine is near.
        outer = await stack.enter_async_context(aiohttp.ClientSession(trust_env=True))
        near = await stack.enter_async_context(aiohttp.ClientSession())
        agent = f"Callboard:{version('callboard-cli')}:{arguments.contact}"
        server = HordeServer(outer, arguments.server, key, agent)
        await _check_key(server)
        try:
            engine = await find_engine(near, arguments.engine, arguments.kind, engine_key or None)
            offer = await _offer(engine, arguments, agent)
        except EngineFailed as error:
            raise CommandError(f"{arguments.engine}: {error}") from None
        volunteer = Volunteer(server, engine, offer, _say)
        _obey_signals(volunteer)
        _say(
            f"{offer.name} offers {', '.join(offer.models)} to {arguments.server}: texts of {offer.max_length} tokens, "
            f"contexts of {offer.max_context_length}, {offer.threads} at once"
        )
        try:
            await volunteer.run()
        except Refused as refused:
            raise CommandError(f"{arguments.server}: {refused}") from None
        except asyncio.CancelledError:
            raise Interrupted from None
        tally = volunteer.tally
        _say(f"ended: {tally.done} texts, {tally.faulted} faults, {tally.dropped} dropped, {tally.kudos:g} kudos")
    return ExitCode.OK


async def _check_key(server: HordeServer) -> None:
    try:
        answer = await server.find_user()
    except (ServerAway, ServerSilent, NoJson):
        _say("the server cannot be reached yet")
        return
    if answer.status in {401, 404}:
        raise CommandError("the server does not know the API key")
    if answer.ok:
        _say(f"working for {answer.body.get('username', 'an account')}")


async def _offer(engine: Engine, arguments: argparse.Namespace, agent: str) -> Offer:
    models = await engine.models()
    model = arguments.model or (models[0] if len(models) == 1 else None)
    if model is None or (arguments.model and models and model not in models):
        raise CommandError(f"--model: allowed are {', '.join(models) or 'none, the engine has none'}", ExitCode.USAGE)
    context_tokens = arguments.max_context or await _context_tokens(engine) or DEFAULT_CONTEXT_TOKENS
    return Offer(
        name=arguments.name,
        models={arguments.offer or model: model},
        max_length=min(arguments.max_length, context_tokens),
        max_context_length=context_tokens,
        threads=arguments.threads,
        agent=agent,
        nsfw=not arguments.no_nsfw,
        priority_usernames=_priority(arguments.priority),
    )


async def _context_tokens(engine: Engine) -> int | None:
    try:
        return await engine.context_tokens()
    except EngineFailed:
        return None


def _priority(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r".{1,100}#[0-9]{1,20}", name):
            raise CommandError(f"--priority: found {name!r}, allowed is a user such as ada#17", ExitCode.USAGE)
    return tuple(names)


def _obey_signals(volunteer: Volunteer) -> None:
    """The first signal ends the volunteer after its jobs, the second at once."""
    loop, task, told = asyncio.get_running_loop(), asyncio.current_task(), False

    def obey() -> None:
        nonlocal told
        if told and task is not None:
            task.cancel()
        told = True
        volunteer.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, obey)


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()
