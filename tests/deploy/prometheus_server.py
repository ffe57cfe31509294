"""A real Prometheus on loopback that scrapes real processes and evaluates the product's own rules."""

import json
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.known_metrics import RULE_FILES
from tests.support.children import Child, wait_until
from tests.support.ports import free_port

START_TIMEOUT_S = 20.0
Sample = dict[str, Any]


class Prometheus:
    """One server with a store of its own; `targets` names the addresses of each job.

    With `alert_after` every alert fires that soon, instead of after the minutes that its rule says.
    """

    def __init__(
        self, program: str, folder: Path, targets: Mapping[str, Sequence[str]], alert_after: str | None = None
    ) -> None:
        self._folder = folder
        self._alert_after = alert_after
        self._url = f"http://127.0.0.1:{free_port()}"
        self._targets = sum(map(len, targets.values()))
        self._write(targets)
        self.child = Child(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'store'}",
                f"--web.listen-address={self._url.removeprefix('http://')}",
                "--log.level=warn",
                "--enable-feature=exemplar-storage",
            ],
            folder / "prometheus.log",
        )

    def wait_ready(self) -> None:
        """Waits until the server runs and has scraped every target; raises with its output when it exits instead."""
        wait_until(self._ready, START_TIMEOUT_S, "prometheus is ready", interval_s=0.1)
        self.wait_scraped(0)

    def wait_scraped(self, since: float | None = None) -> None:
        """Waits until every target was scraped after a Unix time, by default from now on."""
        moment = datetime.fromtimestamp(time.time() if since is None else since, UTC)

        def all_seen() -> bool:
            targets = self.api("targets", state="active")["activeTargets"]
            seen = [each for each in targets if each["health"] == "up" and _moment(each["lastScrape"]) > moment]
            return len(seen) == self._targets

        wait_until(all_seen, START_TIMEOUT_S, "every target is scraped", interval_s=0.1)

    def wait_evaluated(self) -> None:
        """Waits until every rule was evaluated from now on, and once more for rules over recorded series."""
        for _ in range(2):
            moment = datetime.now(UTC)

            def all_evaluated(moment: datetime = moment) -> bool:
                return all(_moment(group["lastEvaluation"]) > moment for group in self.api("rules")["groups"])

            wait_until(all_evaluated, START_TIMEOUT_S, "every rule is evaluated", interval_s=0.1)

    def _ready(self) -> bool:
        assert self.child.alive, self.child.output()[-2000:]
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Stops the server."""
        self.child.stop()

    def query(self, expr: str) -> list[Sample]:
        """The samples of a query now; raises AssertionError with Prometheus's error."""
        result = self.api("query", query=expr)
        assert result["resultType"] == "vector", expr
        samples: list[Sample] = result["result"]
        return samples

    def firing(self) -> list[dict[str, str]]:
        """The labels of every alert that fires now."""
        return [alert["labels"] for alert in self.api("alerts")["alerts"] if alert["state"] == "firing"]

    def fires(self, alert: str, **labels: str) -> bool:
        """Whether an alert with some labels fires now."""
        return any({"alertname": alert, **labels}.items() <= found.items() for found in self.firing())

    def wait_fires(self, alert: str, timeout_s: float = 60.0, **labels: str) -> None:
        """Waits until an alert with some labels fires; raises with those that do."""
        try:
            wait_until(lambda: self.fires(alert, **labels), timeout_s, f"{alert} fires", interval_s=0.2)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.firing()}") from None

    def wait_quiet(self, alert: str, timeout_s: float = 60.0, **labels: str) -> None:
        """Waits until an alert with some labels no longer fires."""
        wait_until(lambda: not self.fires(alert, **labels), timeout_s, f"{alert} is over", interval_s=0.2)

    def api(self, path: str, **values: str) -> Any:
        """The data of a path of Prometheus's HTTP API."""
        address = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(values)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{values}: {error.read().decode()}") from None

    def _write(self, targets: Mapping[str, Sequence[str]]) -> None:
        # Everything is scraped and evaluated once a second, so that tests need not wait for production intervals.
        for path in RULE_FILES:
            rules = yaml.safe_load(path.read_text("utf-8"))
            for group in rules["groups"]:
                group.pop("interval", None)
                for rule in group["rules"] if self._alert_after else ():
                    if "for" in rule:
                        rule["for"] = self._alert_after
            (self._folder / path.name).write_text(json.dumps(rules), encoding="utf-8")
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [path.name for path in RULE_FILES],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(found)}]} for job, found in targets.items()
            ],
        }
        (self._folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")


def program() -> str | None:
    """The path of Prometheus, if it is installed."""
    return shutil.which("prometheus")


def _moment(written: str) -> datetime:
    """A time as Go writes it; Python does not read its nanoseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", written))
