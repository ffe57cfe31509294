"""`callboard models`: lists, fetches, suggests and adds model files."""

import argparse
import os
from pathlib import Path

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models.adding import MAX_NAME, added_files, model_name, obtain, recorded_digest, tables, write
from callboard_cli.models.cache import ModelCache, sha256_of
from callboard_cli.models.catalogue import catalogue, needed_by, select
from callboard_cli.models.fetching import batches, ensure
from callboard_cli.models.progress import MEGABYTE, Progress
from callboard_cli.models.suggestions import GIGABYTE, fitting, parse_memory, suggested_models
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.subjects import token
from callboard_kit.model_files import model_folder
from callboard_kit.settings import DEFAULT_FILE, config_file

DEFAULT_SLOTS = 2
DEFAULT_CONTEXT_TOKENS = 4096


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("models", help="list, fetch, suggest and add model files")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|fetch|suggest|add|verify")
    listing = actions.add_parser("list", help="show the known model files and their state")
    listing.set_defaults(run=_list)
    fetching = actions.add_parser("fetch", help="fetch missing model files")
    fetching.add_argument("names", nargs="*", help="files or groups; default: what the configuration uses")
    fetching.add_argument("--tries", type=int, default=1, help="how often to try, with growing pauses; default: 1")
    fetching.set_defaults(run=_fetch)
    suggesting = actions.add_parser("suggest", help="suggest language models that fit into memory")
    suggesting.add_argument("--memory", help="such as 8GB, of the machine or the GPU; default: this machine's")
    suggesting.set_defaults(run=_suggest)
    adding = actions.add_parser(
        "add",
        help="add a GGUF file by its path, its address, or its name on a hub",
        description="Makes a model file available and prints what to add to callboard.toml. A download is resumed and "
        "appears only when it is whole; its SHA-256 is kept beside it. HF_ENDPOINT names another hub, HF_TOKEN an "
        "account there.",
    )
    adding.add_argument("source", help="a file, http(s)://…/name.gguf, or owner/repository[:QUANTIZATION or FILE]")
    adding.add_argument("--name", help="what clients call the model; default: from the file's name")
    adding.add_argument("--sha256", help="refuse a file with any other digest")
    adding.add_argument("--slots", type=int, default=DEFAULT_SLOTS, help=f"replies at once; default: {DEFAULT_SLOTS}")
    adding.add_argument(
        "--context-tokens",
        type=int,
        default=DEFAULT_CONTEXT_TOKENS,
        help=f"the most that prompt and reply have together; default: {DEFAULT_CONTEXT_TOKENS}",
    )
    adding.add_argument("--write", action="store_true", help="add it to callboard.toml, which is made if there is none")
    adding.add_argument("--default", action="store_true", help="with --write: requests that name no model get it")
    adding.set_defaults(run=_add)
    verifying = actions.add_parser("verify", help="read every model file again and compare its SHA-256")
    verifying.set_defaults(run=_verify)


def _list(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config).config
    cache = ModelCache(model_folder(config.site))
    needed = {file.name for file in needed_by(config)}
    print(f"{cache.folder}")
    for label, files in batches(catalogue()).items():
        size = sum(file.size_bytes for file in files) / MEGABYTE
        states = {cache.state(file) for file in files}
        state = next(state for state in ("missing", "unchecked", "ready") if state in states)
        mark = "used" if any(file.name in needed for file in files) else ""
        print(f"  {label:36} {size:7.1f} MB  {state:9}  {mark:4}  {files[0].about}")
    used = {pool.model_file for pool in config.chat.pools.values()}
    for path in added_files(cache.folder):
        mark = "used" if path.name in used else ""
        print(f"  {path.name:36} {path.stat().st_size / MEGABYTE:7.1f} MB  {'added':9}  {mark:4}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config).config
    files = select(arguments.names) if arguments.names else needed_by(config)
    cache = ModelCache(model_folder(config.site))
    fetched = ensure(files, cache, Progress(), arguments.tries)
    print(f"{len(files)} files ready in {cache.folder}, {fetched} fetched now")
    return 0


def _suggest(arguments: argparse.Namespace) -> int:
    memory = parse_memory(arguments.memory) if arguments.memory else _machine_gigabytes()
    found = fitting(memory)
    print(f"with {memory:.0f} GB of memory, the best first:" if found else f"nothing fits into {memory:g} GB")
    rows = [
        (one.repository, f"{one.gigabytes:.1f} GB", f"{one.needs_gigabytes:.1f} GB", one.licence, one.about)
        for one in found
    ]
    if not rows:
        smallest = suggested_models()[0]
        print(f"the smallest is {smallest.repository}, which needs {smallest.needs_gigabytes:.1f} GB for itself")
        return ExitCode.OK
    print_table(
        [
            ("NAME", "DOWNLOAD", "MEMORY", "LICENCE", "GOOD FOR"),
            *(
                (one.repository, f"{one.gigabytes:.1f} GB", f"{one.needs_gigabytes:.1f} GB", one.licence, one.about)
                for one in found
            ),
        ]
    )
    print(f"\ncallboard models add {found[0].repository} --write --default")
    return ExitCode.OK


def _machine_gigabytes() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIGABYTE


def _add(arguments: argparse.Namespace) -> int:
    configuration = read_config(arguments.config)
    if arguments.slots < 1 or arguments.context_tokens < 128:
        raise CommandError("--slots: from 1, and --context-tokens: from 128", ExitCode.USAGE)
    if arguments.default and not arguments.write:
        raise CommandError("--default: only with --write", ExitCode.USAGE)
    if arguments.name is not None and not _is_name(arguments.name):
        raise CommandError(f"--name: allowed are up to {MAX_NAME} lower-case letters, digits, - and _", ExitCode.USAGE)
    model = obtain(arguments.source, model_folder(configuration.config.site), arguments.sha256, Progress())
    name = arguments.name or model_name(model.path.name)
    addition = tables(name, model, arguments.slots, arguments.context_tokens)
    print(f"{model.path}  sha256 {model.sha256}")
    if not arguments.write:
        print(f"\nadd to callboard.toml, or repeat with --write:\n\n{addition}", end="")
        return ExitCode.OK
    target: Path = config_file(arguments.config) or DEFAULT_FILE
    write(target, name, addition, default=arguments.default)
    print(f"{target}: added the model {name}")
    return ExitCode.OK


def _is_name(name: str) -> bool:
    try:
        return token(name) == name.lower() and len(name) <= MAX_NAME
    except ValueError:
        return False


def _verify(arguments: argparse.Namespace) -> int:
    cache = ModelCache(model_folder(read_config(arguments.config).config.site))
    wrong: list[str] = []
    count = 0
    for file in catalogue():
        if cache.path(file).exists():
            count += 1
            if not cache.verify(file):
                wrong.append(file.name)
    for path in added_files(cache.folder):
        count += 1
        if sha256_of(path) != recorded_digest(path):
            wrong.append(path.name)
    for name in wrong:
        print(f"{name}: its content is not what it was")
    print(f"{count} files read, {len(wrong)} wrong")
    return ExitCode.FAILED if wrong else ExitCode.OK
