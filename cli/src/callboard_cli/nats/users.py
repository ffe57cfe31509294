"""The users of the bus: their secrets, each in a file of its own, and the part of the server's configuration."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from callboard_cli.nats.server_config import USERS_FILE, quoted
from callboard_contracts.permissions import USERS, User, permissions
from callboard_kit.bus_credentials import private_folder, write_private
from callboard_kit.nkeys import UserKey, new_seed

SERVER_FOLDER = "server"
PASSWORD_BYTES = 32
LETTER = "p"
"""Every password begins with it, since a server would read one from its environment that begins with a digit as a
number."""


@dataclass(frozen=True, slots=True)
class Credential:
    """How a user proves who it is, as the server's configuration says it."""

    setting: str
    """`password`, or `nkey` for a public key."""
    value: str
    """The value as the file has it: quoted, or the name of a variable of the server's environment."""


def write_users(folder: Path, *, nkeys: bool, admin_api: bool) -> list[Path]:
    """Makes the secrets that are missing, writes the file of users anew, and returns the files.

    Each user's secret is in a folder of that user's name, so that a service can be given its own and no other.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a file of seeds has something else in it.
    """
    found: dict[User, Credential] = {}
    files: list[Path] = []
    for user in USERS:
        private_folder(folder / user)
        path = folder / user / f"{user}.{'nkey' if nkeys else 'password'}"
        if not path.exists() or not path.stat().st_size:
            write_private(path, new_seed() if nkeys else LETTER + secrets.token_urlsafe(PASSWORD_BYTES))
        secret = path.read_text(encoding="ascii").strip()
        value = quoted(UserKey(secret).public if nkeys else secret)
        found[user] = Credential("nkey" if nkeys else "password", value)
        files.append(path)
    private_folder(folder / SERVER_FOLDER)
    file = folder / SERVER_FOLDER / USERS_FILE
    write_private(file, users_text(found, admin_api=admin_api))
    return [*files, file]


def users_of_environment(*, nkeys: bool, admin_api: bool) -> str:
    """The file of users for a server whose environment has the secrets, such as `NATS_PASSWORD_EDGE`."""
    setting = "nkey" if nkeys else "password"
    variables: dict[User, Credential] = {user: Credential(setting, f"$NATS_{setting}_{user}".upper()) for user in USERS}
    return users_text(variables, admin_api=admin_api)


def users_text(credentials: Mapping[User, Credential], *, admin_api: bool) -> str:
    """The users and their permissions as a part of the server's configuration."""
    lines = ["authorization {", "  users: ["]
    for user, credential in credentials.items():
        allowed = permissions(user, admin_api=admin_api)
        # A user that has an NKey has no other name.
        name = [] if credential.setting == "nkey" else [f"user: {quoted(user)}"]
        lines += [
            f"    # {user}",
            "    {",
            *(f"      {line}" for line in [*name, f"{credential.setting}: {credential.value}"]),
            "      permissions: {",
            *_subjects("publish", allowed.publish),
            *_subjects("subscribe", allowed.subscribe),
            "      }",
            "    }",
        ]
    return "\n".join([*lines, "  ]", "}"]) + "\n"


def _subjects(action: str, subjects: tuple[str, ...]) -> list[str]:
    return [f"        {action}: [", *(f"          {quoted(subject)}" for subject in subjects), "        ]"]
