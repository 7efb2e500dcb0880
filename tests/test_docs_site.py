"""The site that `make docs` builds: it loads nothing from other hosts, and a broken link fails the build."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, part

UNREAD = (".git", ".venv*", ".*_cache", "__pycache__", "build", "reports", "state")
FETCHED = re.compile(r"""<(?!a\b)[^>]*\b(?:href|src)=["']?(?:https?:)?//|@import|url\(["']?(?:https?:)?//""")
FAULTS = {
    "a link to no page": ("README.md", "[none](docs/none.md)", "'docs/none.md'"),
    "a link to no source file": ("docs/state.md", "[none](../vigil/none.py)", "'../vigil/none.py'"),
    "a link to no heading": ("docs/state.md", "[none](streams.md#none)", "'streams.md#none'"),
    "a page that the navigation leaves out": ("docs/none.md", "# None", "docs/none.md"),
}


def build(copy: Path) -> subprocess.CompletedProcess[str]:
    python = part(ROOT / ".venv-docs" / "bin" / "python", "`make docs` makes it")
    command = [python, "-m", "mkdocs", "build", "--strict", "--config-file", str(copy / "mkdocs.yml")]
    return subprocess.run(command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout, with a link to a source file added."""
    folder = tmp_path_factory.mktemp("site") / "copy"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*UNREAD))
    with (folder / "docs" / "streams.md").open("a") as page:
        page.write("\n[service](../service.py)\n")
    return folder


@pytest.fixture(scope="module")
def site(copy: Path) -> Path:
    built = build(copy)
    assert built.returncode == 0, built.stdout
    return copy / "build" / "docs"


def test_a_link_to_a_source_file_leads_to_it(site: Path) -> None:
    assert 'href="../service.py"' in (site / "docs" / "streams.html").read_text()
    assert (site / "service.py").read_text() == (ROOT / "service.py").read_text()


def test_a_page_loads_nothing_from_other_hosts(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".css", ".html")]
    assert files
    assert {path.name: found for path in files if (found := FETCHED.findall(path.read_text()))} == {}


def test_a_page_with_diagrams_brings_what_draws_them(site: Path) -> None:
    """Without it the theme downloads a copy."""
    pages = {path: path.read_text() for path in site.rglob("*.html") if '<pre class="mermaid">' in path.read_text()}
    assert {path.name for path in pages} >= {"index.html", "architecture.html"}
    for path, text in pages.items():
        scripts = re.findall(r'<script src="([^"]*mermaid\.js)">', text)
        assert [(path.parent / script).resolve() for script in scripts] == [site.resolve() / "assets" / "mermaid.js"]


def test_an_api_page_says_something_and_shows_no_markup(site: Path) -> None:
    pages = sorted((site / "api").glob("*.html"))
    assert {"decisions", "domains", "errors", "settings"} <= {path.stem for path in pages}
    for path in pages:
        text = path.read_text()
        assert text.count("doc-heading") > 2, path.name
        assert not re.search(r":[a-z]+:(`|<code>)", text), path.name


@pytest.mark.parametrize(("page", "fault", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_fails_the_build_and_is_named(page: str, fault: str, said: str, copy: Path, site: Path) -> None:
    assert site  # which is well without the fault
    path = copy / page
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{fault}\n")
    built = build(copy)
    path.unlink() if before is None else path.write_text(before)
    assert built.returncode == 1
    assert "Aborted with 1 warnings in strict mode!" in built.stdout
    assert said in built.stdout
