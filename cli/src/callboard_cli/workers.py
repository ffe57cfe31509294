"""`callboard workers`: lists, pauses and removes volunteers."""

import argparse
import time
from collections.abc import Callable, Mapping

from callboard_admin.volunteer_records import VolunteerRecords
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.config import Config
from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.volunteers import VolunteerRecord
from callboard_kit.bus import Bus

WHO_HELP = "a volunteer's name or id"


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("workers", help="list, pause, trust and remove volunteers")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list all volunteers, with what they did and what looks false of it")
    listed.set_defaults(run=_list)
    for name, summary, fields in (
        ("pause", "let a volunteer have no jobs until it is resumed", {"paused": True}),
        (
            "resume",
            "let a volunteer have jobs again, also after a maintenance",
            {"paused": False, "maintenance": False, "maintenance_message": None},
        ),
        ("trust", "let a volunteer have jobs that ask for trusted workers", {"trusted": True}),
        ("distrust", "take that back", {"trusted": False}),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("who", help=WHO_HELP)
        action.set_defaults(run=_changing(fields))
    remove = actions.add_parser("remove", help="forget a volunteer; its name is free then")
    remove.add_argument("who", help=WHO_HELP)
    remove.set_defaults(run=_remove)


def _list(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        now = time.time()
        rows = [_row(record, now) for record in await VolunteerRecords.on(bus).all()]
        titles = ("NAME", "STATE", "OWNER", "MODELS", "LENGTHS", "DONE", "DROPPED", "TOKENS/S", "KUDOS", "SUSPECTED")
        print_table([titles, *rows])
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _row(record: VolunteerRecord, now: float) -> tuple[str, ...]:
    state = "online" if record.is_online(now) else "away"
    if record.paused or record.maintenance:
        state = "paused" if record.paused else "maintenance"
    speed = record.tokens_per_s
    return (
        record.name,
        f"{state}, trusted" if record.trusted else state,
        record.account,
        ",".join(record.models),
        f"{record.max_length}/{record.max_context_length}",
        str(record.fulfilled),
        str(record.dropped),
        "-" if speed is None else f"{speed:.1f}",
        f"{record.reward / KUDOS_SCALE:g}",
        ", ".join(f"{reason} {count}" for reason, count in sorted(record.suspected.items())) or "-",
    )


def _changing(fields: Mapping[str, object]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        async def act(bus: Bus, _config: Config) -> int:
            records = VolunteerRecords.on(bus)
            found = await records.find(arguments.who)
            changed = await records.change(found.id, lambda record: record.model_copy(update=fields))
            print(f"{changed.name}  {_row(changed, time.time())[1]}")
            return ExitCode.OK

        return run_on_bus(arguments, act)

    return run


def _remove(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        records = VolunteerRecords.on(bus)
        found = await records.find(arguments.who)
        await records.remove(found.id)
        print(f"{found.name}  removed")
        return ExitCode.OK

    return run_on_bus(arguments, act)
