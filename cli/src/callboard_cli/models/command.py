"""`callboard models`: lists and fetches model files."""

import argparse

from callboard_cli.configuration import read_config
from callboard_cli.models.cache import ModelCache
from callboard_cli.models.catalogue import catalogue, needed_by, select
from callboard_cli.models.fetching import batches, ensure
from callboard_cli.models.progress import MEGABYTE, Progress
from callboard_cli.subcommands import Subparsers
from callboard_kit.model_files import model_folder


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("models", help="list and fetch model files")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|fetch")
    listing = actions.add_parser("list", help="show the known model files and their state")
    listing.set_defaults(run=_list)
    fetching = actions.add_parser("fetch", help="fetch missing model files")
    fetching.add_argument("names", nargs="*", help="files or groups; default: what the configuration uses")
    fetching.set_defaults(run=_fetch)


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
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config).config
    files = select(arguments.names) if arguments.names else needed_by(config)
    cache = ModelCache(model_folder(config.site))
    fetched = ensure(files, cache, Progress())
    print(f"{len(files)} files ready in {cache.folder}, {fetched} fetched now")
    return 0
