"""The configuration file of a nats-server that carries Callboard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tls = Literal["server", "mutual"]

FEATURE_FLAGS = "feature_flags { js_ack_fc_v2: false }"
"""Flow control of acknowledgements, version 2, is not reliable with the client; servers older than 2.14 refuse it."""
SERVER_SYNCS = ("  # A message is acknowledged once it is on the disk.", "  sync_interval: always")
CLIENTS_SYNC = (
    "  # Who relies on a message brings it to the disk; the rest can be computed again.",
    '  sync_interval: "1s"',
)
USERS_FILE = "users.conf"
CLUSTER_PORT = 6222


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where a server listens and keeps its store, and whom it lets in.

    `include` is a file of users, by its path from the configuration's folder, which is the only one that the server
    takes. `tls_folder` holds `tls.crt`, `tls.key` and `ca.crt`. The servers of a cluster know each other by `routes`.
    Where `clients_sync`, clients bring to the disk what they rely on, as `nats.store_dir` has them do.
    """

    name: str
    listen: str
    monitor: str
    store: str
    max_memory: str = "2G"
    clients_sync: bool = False
    ports_folder: str | None = None
    pid_file: str | None = None
    include: str | None = None
    credentials: tuple[str, str] | None = None
    tls: Tls | None = None
    tls_folder: str = ""
    routes: Sequence[str] = ()


def configuration(options: ServerOptions) -> str:
    """Returns the text of the file."""
    lines = [
        # A name that is a variable of the environment is read only without quotes.
        f"server_name: {options.name if options.name.startswith('$') else quoted(options.name)}",
        f"listen: {quoted(options.listen)}",
        f"http: {quoted(options.monitor)}",
        *([f"ports_file_dir: {quoted(options.ports_folder)}"] if options.ports_folder else []),
        *([f"pid_file: {quoted(options.pid_file)}"] if options.pid_file else []),
        "jetstream {",
        f"  store_dir: {quoted(options.store)}",
        f"  max_mem: {options.max_memory}",
        "  max_file: 16G",
        *(CLIENTS_SYNC if options.clients_sync else SERVER_SYNCS),
        "}",
        FEATURE_FLAGS,
    ]
    if options.tls:
        lines += _tls(options.tls, options.tls_folder)
    if options.routes:
        lines += [
            "cluster {",
            "  name: callboard",
            f'  listen: "0.0.0.0:{CLUSTER_PORT}"',
            f"  routes: [{', '.join(map(quoted, options.routes))}]",
            # Servers ask one another for certificates whatever clients have to show.
            *(_tls("mutual", options.tls_folder, "  ") if options.tls else []),
            "}",
        ]
    if options.include:
        lines.append(f"include {quoted(options.include)}")
    if options.credentials:
        user, password = map(quoted, options.credentials)
        lines.append(f"authorization {{ user: {user}, password: {password} }}")
    return "\n".join(lines) + "\n"


def quoted(value: str) -> str:
    """A text as the server's configuration has it."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _tls(tls: Tls, folder: str, indent: str = "") -> list[str]:
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
    lines = [f"  {setting}: {quoted(f'{folder}/{name}')}" for setting, name in files.items()]
    lines += [f"  verify: {str(tls == 'mutual').lower()}", "  timeout: 5"]
    return [indent + line for line in ("tls {", *lines, "}")]
