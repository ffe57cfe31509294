"""`callboard up`: runs all of Callboard on this machine."""

import argparse
import asyncio
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode, Interrupted
from callboard_cli.models.cache import ModelCache
from callboard_cli.models.catalogue import needed_by
from callboard_cli.models.fetching import ensure
from callboard_cli.models.progress import Progress
from callboard_cli.subcommands import Subparsers
from callboard_cli.up.banner import banner
from callboard_cli.up.launch import from_environment
from callboard_cli.up.one_model import OneModel
from callboard_cli.up.optional import without_recogniser
from callboard_cli.up.ports import check_ports
from callboard_cli.up.services import plan
from callboard_cli.up.store import StoreLock
from callboard_cli.up.supervision import Supervision
from callboard_contracts.config import Config
from callboard_kit.bus_credentials import create_password, with_local_credentials, with_local_store
from callboard_kit.model_files import model_folder
from callboard_kit.settings import config_file

CONTAINER_MODELS = Path("/models")
CONTAINER_HOST = "0.0.0.0"
CONTAINER_PORT = 5001
GIVEN = ("model", "context_tokens", "slots", "threads", "max_output_tokens", "host", "port")
"""The options that say how one model is served."""


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("up", help="start everything on this machine and stay until Ctrl-C")
    parser.add_argument("-m", "--model", help="serve only this GGUF file, in place of the configuration's chat models")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="where it is; the only one there is served")
    parser.add_argument(
        "--container",
        action="store_true",
        help=f"as the image of a whole site does: one file of {CONTAINER_MODELS}, on port {CONTAINER_PORT} of all "
        "addresses, with launch variables such as KCPP_ARGS and LLAMA_ARG_MODEL",
    )
    parser.add_argument("-c", "--context-tokens", "--ctx-size", "--contextsize", type=int, help="of each reply")
    parser.add_argument("-np", "--parallel", type=int, dest="slots", help="how many replies are written at once")
    parser.add_argument("-t", "--threads", type=int, help="processor threads; default: what the container may use")
    parser.add_argument("-n", "--max-output-tokens", "--n-predict", type=int, help="the most that one reply may have")
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the port to listen on")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        _up(arguments)
    except Interrupted:
        say("stopped before it was up")
    return ExitCode.OK


def _up(arguments: argparse.Namespace) -> None:
    started_at = time.monotonic()
    configuration = read_config(arguments.config)
    one_model = _one_model(arguments, configuration.config)
    lock = StoreLock(configuration.config.site.data_dir)
    lock.acquire()
    try:
        if one_model:
            configuration = one_model.configuration(configuration)
        elif config_file(arguments.config) is None:
            configuration = without_recogniser(configuration, say)
        config = configuration.config
        check_ports(config)
        create_password(config.site)
        config = with_local_store(with_local_credentials(config))
        if one_model is None:
            # One model brings its own files, in a folder that may be read-only.
            ensure(needed_by(config), ModelCache(model_folder(config.site)), Progress())
        service_plan = plan(config, configuration.path)
        password = one_model.launch.password if one_model else None
        supervision = Supervision(config, service_plan, config.site.data_dir, say, password)

        def ready() -> None:
            took_s = time.monotonic() - started_at
            print(banner(config, service_plan.edge_port, took_s, str(config.site.data_dir)), flush=True)

        asyncio.run(supervision.run(ready))
        say("stopped")
    finally:
        lock.release()


def _one_model(arguments: argparse.Namespace, config: Config) -> OneModel | None:
    """What is to be served in place of the configuration's chat models; None leaves them.

    Variables count only in a container: elsewhere they may be meant for another program.
    """
    given = {name: getattr(arguments, name) for name in GIVEN}
    folder: Path | None = arguments.models or (CONTAINER_MODELS if arguments.container else None)
    if folder is None and arguments.model is None:
        if named := [name for name, value in given.items() if value is not None]:
            option = named[0].replace("slots", "parallel").replace("_", "-")
            raise CommandError(f"--{option}: only with --model, --models or --container", ExitCode.USAGE)
        return None
    launch = from_environment(os.environ if arguments.container else {}, given)
    if launch.ignored:
        say(f"without effect here: {', '.join(launch.ignored)}")
    if arguments.container and config_file(arguments.config) is None:
        launch = replace(launch, host=launch.host or CONTAINER_HOST, port=launch.port or CONTAINER_PORT)
    return OneModel(launch, folder or model_folder(config.site), say)


def say(text: str) -> None:
    """Writes a message to standard error, apart from the command's output."""
    sys.stderr.write(f"callboard: {text}\n")
    sys.stderr.flush()
