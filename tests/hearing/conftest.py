"""Prints what was heard of each kind at the end of a run."""

import pytest

from tests.hearing.results import RESULTS, table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table."""
    if RESULTS:
        terminalreporter.section("heard back")
        for line in table(RESULTS):
            terminalreporter.write_line(line)
