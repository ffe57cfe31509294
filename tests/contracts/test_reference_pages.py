"""What the documents say is what the code does."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from callboard_cli.__main__ import parser
from callboard_cli.configuration import read_config
from callboard_cli.failures import ExitCode
from callboard_contracts.errors import CATALOGUE, ErrorCode
from callboard_contracts.voices import KOKORO_VOICES

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_say_what_the_code_says() -> None:
    assert generator().differing() == [], "run `make docs` and commit what it wrote"


def test_every_error_code_has_a_meaning_and_a_line_in_the_reference() -> None:
    assert set(CATALOGUE) == set(ErrorCode)
    page = (DOCS / "reference" / "errors.md").read_text()
    assert all(f"| `{code.value}` |" in page for code in ErrorCode)


def test_every_exit_code_is_documented() -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} | `{code.name}` |" in page


def test_every_command_is_documented() -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    commands = next(action.choices for action in parser()._actions if action.dest == "command")  # pyright: ignore[reportPrivateUsage]
    assert commands
    for command in commands:
        assert f"`callboard {command}" in page


@pytest.mark.parametrize(
    "page",
    [
        *(path for path in sorted(ROOT.glob("*.md"))),
        *(path for path in sorted(DOCS.rglob("*.md"))),
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


def test_every_page_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        waiting += [(page.parent / link).resolve() for link in LINK.findall(page.read_text())]
    assert {str(path.relative_to(DOCS)) for path in set(DOCS.rglob("*.md")) - reached} == set()


def test_the_index_names_every_decision_once_under_its_own_title() -> None:
    titles = [
        f"- [{path.read_text().splitlines()[0].removeprefix('# ')}]({path.name})"
        for path in sorted((DOCS / "adr").glob("[0-9]*.md"))
    ]
    index = (DOCS / "adr" / "index.md").read_text().splitlines()
    assert [line for line in index if line.startswith("- [")] == titles


def test_the_packaged_configuration_is_valid_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_CONFIG", raising=False)
    config = read_config(None).config
    assert config.chat.default_model in config.chat.models
    assert "smollm2:latest" in config.chat.models["smollm2"].aliases
    aliases = config.tts.models["kokoro"].voice_aliases
    openai_voices = {"alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse"}
    assert openai_voices <= set(aliases)
    known = set(KOKORO_VOICES)
    assert set(aliases.values()) <= known


def test_every_member_has_the_same_version_and_the_changelog_knows_it() -> None:
    projects = [tomllib.loads(path.read_text()) for path in sorted(ROOT.glob("*/*/pyproject.toml"))]
    projects.append(tomllib.loads((ROOT / "cli" / "pyproject.toml").read_text()))
    versions = {project["project"]["version"] for project in projects}
    assert len(projects) == 11
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert versions == {root["tool"]["towncrier"]["version"]}
    released = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert not released or released[0] in versions


def test_fragments_have_a_kind_that_the_changelog_knows() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    kinds = {kind["directory"] for kind in root["tool"]["towncrier"]["type"]}
    for path in (ROOT / "changelog").glob("*.md"):
        if path.name != "README.md":
            assert re.fullmatch(rf"\d+\.({'|'.join(sorted(kinds))})(\.\d+)?\.md", path.name), path.name
