"""The quota service's settings, which it follows while it runs."""

import logging
from collections.abc import Callable
from pathlib import Path

from callboard_contracts.config import Config
from callboard_contracts.streams import LEASE_LIFE_S
from callboard_kit.lifecycle import StartError
from callboard_kit.settings import SettingsError, load_config

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Refuses a configuration whose requests may outlive their holds; raises StartError."""
    longest_s = config.edge.request_timeout_s + config.quota.lease_margin_s
    if longest_s > LEASE_LIFE_S:
        raise StartError(
            f"edge.request_timeout_s + quota.lease_margin_s: found {longest_s:.0f} s, allowed are {LEASE_LIFE_S} s"
        )


class LiveSettings:
    """Reads the configuration again from time to time, so that tiers change without a restart."""

    def __init__(self, path: Path | None, current: Config, apply: Callable[[Config], None]) -> None:
        self._path = path
        self._current = current
        self._apply = apply
        self._complaint = ""

    def reload(self) -> None:
        """Reads the file; an invalid one changes nothing and is logged once. Blocks while it reads."""
        try:
            config = load_config(self._path)
            check(config)
        except (SettingsError, StartError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("settings_refused", extra={"reason": str(error)})
            return
        self._complaint = ""
        if (config.quota, config.kudos) != (self._current.quota, self._current.kudos):
            self._current = config
            self._apply(config)
            log.info("settings_changed")
