import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

DOCS = ROOT / "docs"
MESSAGES = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text(), re.M)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs")
    for name in ("README.md", "zensical.toml"):
        shutil.copy(ROOT / name, folder)
    command = [Path(sys.executable).parent / "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "build" / "docs"


def test_no_link_of_the_documentation_is_dead(site):
    assert (site / "index.html").is_file()


def test_every_page_is_in_the_navigation_and_every_entry_of_it_is_a_page():
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert sorted(re.findall(r"'([\w-]+\.md)'", str(project["nav"]))) == sorted(page.name for page in DOCS.glob("*.md"))


def test_no_image_of_the_documentation_is_missing():
    for page in DOCS.glob("*.md"):
        for image in re.findall(r"!\[[^\]]*\]\((?!https?:)([^)]+)\)", page.read_text()):
            assert (DOCS / image).is_file(), f"{page.name}: {image}"


@pytest.mark.parametrize("page", ["your-own-images", "metrics", "caption"])
def test_what_the_readme_says_is_on_its_page(site, page):
    html = (site / page / "index.html").read_text()
    assert "--8&lt;--" not in html
    assert html.count("<table>") + html.count("<pre") > 0


def test_pages_load_nothing_from_other_servers(site):
    for page in site.rglob("*.html"):
        assert not re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', page.read_text()), page


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_of_the_troubleshooting_are_said_by_the_code(message):
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)  # a message that goes over several lines
    own = {"Status 75": "INTERRUPTED = 75"}
    assert own.get(message, message) in joined


def test_the_support_matrix_says_what_the_package_requires():
    text = (DOCS / "support-matrix.md").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'requires-python = ">=3.11,<3.14"', project)
    assert "3.11 to 3.13" in text
