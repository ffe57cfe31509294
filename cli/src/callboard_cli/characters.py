"""`callboard characters`: lists, writes, imports, exports and deletes characters, and has them forget."""

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

from callboard_admin.character_cards import CardFormat, CardVersion
from callboard_admin.character_records import CharacterRecords, settings_of
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.characters import MAX_AVATAR_BYTES, StoredCharacter
from callboard_contracts.config import Config
from callboard_kit.bus import Bus

MAX_FILE_BYTES = 32 * 1024 * 1024
NAME_HELP = "the character's name"


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("characters", help="list, write, import, export and delete characters")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the characters")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="show a character's settings, as `put` takes them")
    show.add_argument("name", help=NAME_HELP)
    show.set_defaults(run=_show)
    put = actions.add_parser("put", help="write characters, each by a file of its settings")
    put.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a TOML or JSON file; its name is the default")
    put.set_defaults(run=_put)
    imports = actions.add_parser("import", help="write characters by their cards, of version 1, 2 or 3")
    imports.add_argument("files", nargs="+", type=Path, metavar="CARD", help="a PNG or JSON file")
    imports.add_argument("--name", help="what the character is called; default: made of the card's name")
    imports.add_argument("--model", help="the chat model that it answers with")
    imports.add_argument("--voice", help="the voice that it speaks with")
    imports.add_argument("--replace", action="store_true", help="replace a character of the same name")
    imports.set_defaults(run=_import)
    exports = actions.add_parser("export", help="write a character's card")
    exports.add_argument("name", help=NAME_HELP)
    exports.add_argument("--format", choices=get_args(CardFormat), default="json", help="default: json")
    exports.add_argument(
        "--spec", choices=get_args(CardVersion), help="the version; default: that of the import, or v2"
    )
    exports.add_argument("--output", type=Path, help="the file to write; default: standard output")
    exports.set_defaults(run=_export)
    forget = actions.add_parser("forget", help="have a character forget a speaker, or all")
    forget.add_argument("name", help=NAME_HELP)
    forget.add_argument("--speaker", help="whom; default: all")
    forget.set_defaults(run=_forget)
    delete = actions.add_parser("delete", help="delete a character and all that it remembers")
    delete.add_argument("name", help=NAME_HELP)
    delete.set_defaults(run=_delete)


def _list(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        found = await CharacterRecords.on(bus).all()
        if arguments.json:
            print(json.dumps([settings_of(one.character) for one in found], indent=2, ensure_ascii=False))
            return ExitCode.OK
        print_table([("NAME", "DISPLAY NAME", "MODEL", "VOICE", "MEMORY", "REVISION"), *map(_row, found)])
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _show(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        stored = await CharacterRecords.on(bus).find(arguments.name)
        print(json.dumps(settings_of(stored.character), indent=2, ensure_ascii=False))
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _put(arguments: argparse.Namespace) -> int:
    tables = [(file, _settings(file)) for file in arguments.files]

    async def act(bus: Bus, _config: Config) -> int:
        records = CharacterRecords.on(bus)
        for file, settings in tables:
            stored = await records.put_settings(str(settings.get("name", file.stem)), settings)
            print(f"{stored.character.name}  revision {stored.revision}")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _import(arguments: argparse.Namespace) -> int:
    if arguments.name and len(arguments.files) > 1:
        raise CommandError("characters: --name names one character; import its card alone")
    cards: list[tuple[Path, bytes]] = [(file, _read(file)) for file in arguments.files]
    given = {"model": arguments.model, "voice": arguments.voice}
    settings = {field: value for field, value in given.items() if value is not None}

    async def act(bus: Bus, _config: Config) -> int:
        records = CharacterRecords.on(bus)
        for file, data in cards:
            stored, dropped = await records.import_file(data, arguments.name, settings, replaces=arguments.replace)
            if dropped:
                sys.stderr.write(f"{file}: the picture is larger than {MAX_AVATAR_BYTES} bytes and is not kept\n")
            print(f"{stored.character.name}  revision {stored.revision}")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _export(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        data = await CharacterRecords.on(bus).export_file(arguments.name, arguments.format, arguments.spec)
        if arguments.output is None:
            sys.stdout.buffer.write(data)
        else:
            arguments.output.write_bytes(data)
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _forget(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        count = await CharacterRecords.on(bus).forget(arguments.name, arguments.speaker)
        print(f"{arguments.name}  {count} memories forgotten")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _delete(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        await CharacterRecords.on(bus).delete(arguments.name)
        print(f"{arguments.name}  deleted")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _row(stored: StoredCharacter) -> tuple[str, ...]:
    one = stored.character
    shown = "".join(letter if letter.isprintable() else " " for letter in one.display_name)
    return one.name, shown, one.model or "-", one.voice or "-", str(one.memory_messages), str(stored.revision)


def _settings(file: Path) -> dict[str, Any]:
    """The settings in a file; raises CommandError for what is neither TOML nor JSON."""
    data = _read(file)
    try:
        table = json.loads(data) if file.suffix.lower() == ".json" else tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise CommandError(f"characters: {file}: {error}") from None
    if not isinstance(table, dict):
        raise CommandError(f"characters: {file}: not a table of settings")
    return table


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CommandError(f"characters: {file}: larger than {MAX_FILE_BYTES} bytes")
    return data
