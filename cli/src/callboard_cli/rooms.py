"""`callboard rooms`: lists, shows, ends and exports rooms."""

import argparse
import json
import sys
from typing import get_args

from callboard_admin.periods import show_time
from callboard_admin.room_records import RoomFormat, RoomRecords, dialogue, export, summary
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.config import Config
from callboard_contracts.rooms import Room
from callboard_kit.bus import Bus

ROOM_HELP = "a room's id or key"


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("rooms", help="list, show, end and export rooms")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    rooms = actions.add_parser("list", help="list the rooms, the one that was last active first")
    rooms.add_argument("--json", action="store_true", help="as JSON")
    rooms.set_defaults(run=_list)
    show = actions.add_parser("show", help="show a room and its dialogue")
    show.add_argument("room", help=ROOM_HELP)
    show.set_defaults(run=_show)
    end = actions.add_parser("end", help="end a room, claimed or not, and forget it")
    end.add_argument("room", help=ROOM_HELP)
    end.set_defaults(run=_end)
    exports = actions.add_parser("export", help="write a room's dialogue")
    exports.add_argument("room", help=ROOM_HELP)
    exports.add_argument(
        "--format", choices=get_args(RoomFormat), default="json", help="JSON, or WebVTT with times; default: json"
    )
    exports.set_defaults(run=_export)


def _list(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        rooms = await RoomRecords.on(bus).all()
        if arguments.json:
            print(json.dumps([summary(room) for room in rooms], indent=2, ensure_ascii=False))
            return ExitCode.OK
        heading = ("ID", "KIND", "KEY", "ACTIVE AT", "MESSAGES", "WAITING")
        print_table([heading, *map(_row, rooms)])
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _show(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        room = await RoomRecords.on(bus).find(arguments.room)
        for name, value in summary(room).items():
            print(f"{name}: {_printable(str(value))}")
        for message in dialogue(room):
            print(f"{message['at']}  {_printable(message['speaker'])}: {_printable(message['text'])}")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _end(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        records = RoomRecords.on(bus)
        room = await records.find(arguments.room)
        await records.end(room)
        print(f"{room.id}  ended")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _export(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        sys.stdout.write(export(await RoomRecords.on(bus).find(arguments.room), arguments.format))
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _row(room: Room) -> tuple[str, ...]:
    waiting = len(room.waiting) + (room.running is not None)
    at = show_time(room.active_at)
    return room.id, room.kind, _printable(room.key), at, str(len(room.messages)), str(waiting)


def _printable(text: str) -> str:
    """A visitor's words without what would steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
