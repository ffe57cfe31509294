"""How to reach the bus that `callboard up` runs: its random password, in a file that only its owner can read."""

import os
import secrets
import stat
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from callboard_contracts.config import Config, SiteSection
from callboard_kit.file_systems import orders_renames

BUS_FOLDER = "nats"
STORE_FOLDER = "store"
PASSWORD_FILE = "password"  # noqa: S105 - the name of a file
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def bus_folder(site: SiteSection) -> Path:
    """Returns the folder of the bus: its store, its configuration and its password."""
    return site.data_dir / BUS_FOLDER


def is_local(url: str) -> bool:
    """Whether the URL names one bus on this machine, by a loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return "," not in url and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False


def with_local_credentials(config: Config) -> Config:
    """Returns the configuration with the credentials of `callboard up`, where it names none and they can be read.

    They are used only for a bus on this machine, whose store is then known too.
    """
    nats = config.nats
    if nats.password is not None or nats.nkey_seed is not None or not is_local(nats.url):
        return config
    try:
        password = (bus_folder(config.site) / PASSWORD_FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return config
    if not password:
        return config
    nats = nats.model_copy(update={"password": SecretStr(password)})
    config = config.model_copy(update={"nats": nats})
    return with_local_store(config) if _store(config.site).is_dir() else config


def with_local_store(config: Config) -> Config:
    """Returns the configuration with the store of the bus that `callboard up` runs, where processes are to sync it.

    On a file system that may lose a file which the server rewrites, the server syncs every message itself.
    """
    store = _store(config.site)
    nats = config.nats.model_copy(update={"store_dir": store if orders_renames(store) else None})
    return config.model_copy(update={"nats": nats})


def _store(site: SiteSection) -> Path:
    return bus_folder(site).absolute() / STORE_FOLDER


def create_password(site: SiteSection) -> None:
    """Creates the password unless there is one, and makes the folder and the file private; raises OSError."""
    private_folder(bus_folder(site))
    path = bus_folder(site) / PASSWORD_FILE
    if path.exists() and path.stat().st_size:
        path.chmod(PRIVATE_FILE)
    else:
        write_private(path, secrets.token_urlsafe(32))


def private_folder(folder: Path) -> None:
    """Creates a folder, or takes an existing one, that only its owner may enter."""
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    # Only the owner may change the mode, and whoever writes here may be another user.
    if stat.S_IMODE(folder.stat().st_mode) != PRIVATE_FOLDER:
        folder.chmod(PRIVATE_FOLDER)


def write_private(path: Path, text: str) -> None:
    """Writes a file, whole or not at all, that only its owner may read."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
