"""Arguments that `callboard keys` and `callboard usage` refuse before they connect to the bus."""

from pathlib import Path

import pytest

from callboard_cli.__main__ import main
from callboard_cli.failures import ExitCode

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_CONFIG", raising=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keys", "create", "--name", "x", "--expires", "soon"], "--expires: found 'soon'"),
        (["keys", "create", "--name", "x", "--expires", "2001-01-01"], "--expires: 2001-01-01 is over already"),
        (["keys", "create", "--name", "x", "--limit", "gold=1"], "--limit: found 'gold'"),
        (["keys", "change", "x", "--limit", "tokens_per_day=-1"], "--limit: tokens_per_day needs a whole number"),
        (["keys", "rotate", "x", "--keep", "ever"], "--keep: found 'ever'"),
        (["usage", "show", "--since", "yesterday"], "--since: found 'yesterday'"),
        (["usage", "show", "--since", "2h", "--until", "3h"], "--since: that is not before the end"),
        (["usage", "export", "usage.xml"], "export: found 'usage.xml'"),
        (["usage", "verify", "--since", "2999-01-01"], "--since: that is not before the end"),
    ],
)
def test_wrong_argument_is_one_line_that_names_it(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"callboard: {message}")
    assert error.count("\n") == 1
