import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from typer.main import get_command

from captioning.cli import app

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WRITTEN = [ROOT / "README.md", *PAGES]
MESSAGES = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text(), re.M)
DIALECT = (
    r"pictures?|(go|goes|going|gone) on with|so many|is told|are told|mend|mended|likeliest|judged?|by lot|"
    r"at each visit|a word is said|tells which|find themselves|found by themselves"
)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def blocks(page: Path) -> list[str]:
    """The blocks of commands, with each command on one line."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.M)
    return [re.sub(r"\\\n +", "", block) for language, block in fenced if language in ("", "bash")]


def commands() -> dict[tuple[str, ...], str]:
    """The commands of train.py and captioning in the blocks of README and pages, each with a page that has it."""
    found: dict[tuple[str, ...], str] = {}
    for page in WRITTEN:
        for line in (line for block in blocks(page) for line in block.splitlines()):
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";|")
            lexer.whitespace_split, lexer.commenters = True, "#"
            words: list[str] = []
            for word in [*lexer, ";"]:
                if not set(word) <= set(";|"):
                    words.append(word)
                    continue
                if name := next((name for name in ("train.py", "captioning") if name in words), ""):
                    found.setdefault(tuple(words[words.index(name) :]), page.name)
                words = []
    return found


COMMANDS = [pytest.param(words, id=f"{page}: {' '.join(words)}") for words, page in commands().items()]


def compose_command(compose, overrides: list[str]) -> None:
    """Compose what a command line gives; of a sweep, the first value of each setting."""
    given = []
    for override in OverridesParser.create().parse_overrides(overrides):
        value = override.value()
        if isinstance(value, IntervalSweep):
            value = value.start
        elif override.is_sweep_override():
            value = next(override.sweep_string_iterator())
        else:
            value = override.get_value_element_as_str()
        given.append(f"{override.input_line.partition('=')[0]}={value}")
    compose(*given)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_line_parses(compose, words):
    program, *arguments = words
    if program == "train.py":
        compose_command(compose, [word for word in arguments if word != "-m"])
        return
    group = get_command(app)
    name, command, rest = group.resolve_command(group.make_context("captioning", list(arguments)), arguments)
    context = command.make_context(name, rest)
    compose_command(compose, context.params.get("settings") or [])


def test_command_lines_are_found():
    assert len(COMMANDS) >= 40


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_no_explanation_stands_on_a_command_line(page):
    for block in blocks(page):
        assert not re.findall(r"\s#\s.*|^#\s.*|\S {3,}\S.*", block, re.M)


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 180
    assert len(text.split()) <= 1500


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_pages_are_written_in_the_words_of_the_field(page):
    assert re.findall(rf"\b(?:{DIALECT})\b", without_code(page.read_text()), re.IGNORECASE) == []


# ---------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*WRITTEN, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_no_link_is_dead(page):
    text = page.read_text()
    for link in re.findall(r'\]\((?!https?:)([^)]+)\)|<img src="([^"]+)"', text):
        target, _, anchor = "".join(link).partition("#")
        file = page.parent / target if target else page
        assert file.is_file(), link
        assert not anchor or anchor in anchors(file), link


def test_every_page_is_in_the_tables_of_the_readme_and_of_the_index():
    for page in PAGES:
        if page.name != "index.md":
            assert f"(docs/{page.name})" in (ROOT / "README.md").read_text()
            assert f"({page.name})" in (DOCS / "index.md").read_text()


def test_every_page_is_in_the_navigation_and_every_entry_of_it_is_a_page():
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert sorted(re.findall(r"'([\w-]+\.md)'", str(project["nav"]))) == [page.name for page in PAGES]


def test_the_pages_are_built_without_a_warning_and_load_nothing_from_other_servers(tmp_path):
    pytest.importorskip("zensical")
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [Path(sys.executable).parent / "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "build" / "docs").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        assert not re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', page.read_text()), page


# ---------------------------------------------------------------- what pages say of the code


def test_messages_of_the_troubleshooting_are_printed_by_the_code():
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # a message may go over several lines
    assert len(MESSAGES) >= 25
    assert [message for message in MESSAGES if message not in sources] == []


def test_the_support_matrix_names_the_versions_that_the_package_requires():
    text = (DOCS / "support-matrix.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert "3.11 to 3.13" in text
    for name in ("torch", "transformers"):
        (lowest,) = [each.removeprefix(f"{name}>=") for each in project["dependencies"] if each.startswith(f"{name}>=")]
        assert f"| {name} | {lowest} or newer" in text


def test_every_setting_of_model_and_data_is_described(compose):
    text = (DOCS / "settings.md").read_text()
    cfg = compose()
    hidden = {"model.architecture", "data.source", "data.processor", "data.seed"}
    missing = {f"{section}.{name}" for section in ("model", "data") for name in cfg[section]} - hidden
    assert {name for name in missing if f"`{name}" not in text} == set()
