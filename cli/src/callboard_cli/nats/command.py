"""`callboard nats`: writes the configuration of the nats-server, and its users with their secrets."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.nats.server_config import CLUSTER_PORT, USERS_FILE, ServerOptions, configuration
from callboard_cli.nats.users import users_of_environment, write_users
from callboard_cli.subcommands import Subparsers

HEADLESS_SERVICE = "nats-headless"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs: the folder of its configuration, where in it the users are, and its own name."""

    folder: str
    include: str
    name: str
    max_memory: str
    pid_file: str | None = None


PLACES = {
    "compose": Place("/etc", f"secret/{USERS_FILE}", "callboard", "2G"),
    # The chart's reloader, which has the server read changed files, finds it by its process id.
    "kubernetes": Place("/etc/nats", f"users/{USERS_FILE}", "$POD_NAME", "1536M", "/tmp/nats.pid"),  # noqa: S108
}


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("nats", help="write the configuration of the nats-server and its users")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    config = actions.add_parser("config", help="print the server's configuration, which includes a file of users")
    config.add_argument("--for", dest="place", choices=PLACES, required=True, help="where the server runs")
    config.add_argument("--tls", choices=("server", "mutual"), help="speak TLS; mutual asks clients for certificates")
    config.add_argument("--nodes", type=int, default=1, help="for kubernetes: how many servers; default: 1")
    config.set_defaults(run=_config)
    users = actions.add_parser("users", help="write the users with their permissions, and make their secrets")
    users.add_argument(
        "--folder",
        type=Path,
        help="where the secrets are made, once, and the file of users is written; left out, the file is printed, and "
        "the server finds the secrets in its environment",
    )
    users.add_argument("--nkeys", action="store_true", help="NKeys in place of passwords")
    users.add_argument("--admin-api", action="store_true", help="the edge may do what its admin API needs")
    users.set_defaults(run=_users)


def _config(arguments: argparse.Namespace) -> int:
    place, nodes = PLACES[arguments.place], int(arguments.nodes)
    if nodes != 1 and (arguments.place != "kubernetes" or nodes < 1):
        raise CommandError("--nodes: a cluster is for kubernetes and has 1 or more servers", ExitCode.USAGE)
    cluster = range(nodes) if nodes > 1 else ()
    options = ServerOptions(
        name=place.name,
        listen="0.0.0.0:4222",
        # KEDA and the exporter of the dashboards read it; it must not be reachable from elsewhere.
        monitor="0.0.0.0:8222",
        store="/data",
        max_memory=place.max_memory,
        pid_file=place.pid_file,
        include=place.include,
        tls=arguments.tls,
        tls_folder=f"{place.folder}/tls",
        routes=[f"nats://nats-{number}.{HEADLESS_SERVICE}:{CLUSTER_PORT}" for number in cluster],
    )
    given = [f"--for {arguments.place}"]
    given += [f"--tls {arguments.tls}"] if arguments.tls else []
    given += [f"--nodes {nodes}"] if nodes > 1 else []
    print(f"# Written by `callboard nats config {' '.join(given)}`.")
    print(configuration(options), end="")
    return ExitCode.OK


def _users(arguments: argparse.Namespace) -> int:
    admin_api = arguments.admin_api or read_config(arguments.config).config.edge.admin_token is not None
    if arguments.folder is None:
        given = "".join(f" --{name}" for name in ("nkeys", "admin-api") if getattr(arguments, name.replace("-", "_")))
        print(f"# Written by `callboard nats users{given}`.")
        print(users_of_environment(nkeys=arguments.nkeys, admin_api=admin_api), end="")
        return ExitCode.OK
    try:
        files = write_users(arguments.folder, nkeys=arguments.nkeys, admin_api=admin_api)
    except ValueError as error:
        raise CommandError(f"nats: {arguments.folder}: {error}") from None
    print("\n".join(map(str, files)))
    return ExitCode.OK
