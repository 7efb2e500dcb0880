"""`version` in pyproject.toml is the one source; every other place holds the same number."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
import yaml
from typer.testing import CliRunner

import vigil
from tests.conftest import ROOT
from vigil import cli

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NUMBER = r"\d+\.\d+\.\d+"
IMAGE = re.compile(rf"\bvigil(?:-load)?:({NUMBER})\b")
# Every tracked place that names the image with a version.
IMAGE_FILES = ("Makefile", "compose.yaml", "deploy/load.Dockerfile", "docs/operations.md", "helm/tests/score_test.yaml")
UNREAD = {".git", ".venv", ".venv-docs", ".venv-peers", "build", "state", "reports"}


def test_the_package_and_the_command_line_give_the_version() -> None:
    assert vigil.__version__ == VERSION
    answer = CliRunner().invoke(cli.app, ["--version"])
    assert answer.exit_code == 0
    assert answer.stdout == f"vigil {VERSION}\n"


@pytest.mark.parametrize("key", ["version", "appVersion"])
def test_the_chart_has_the_version(key: str) -> None:
    assert yaml.safe_load((ROOT / "helm" / "Chart.yaml").read_text())[key] == VERSION


@pytest.mark.parametrize("name", IMAGE_FILES)
def test_every_image_tag_is_the_version(name: str) -> None:
    tags = IMAGE.findall((ROOT / name).read_text())
    assert tags
    assert set(tags) == {VERSION}


def test_no_other_file_names_an_image_tag() -> None:
    """A new place must join `IMAGE_FILES`, or a release would miss it."""
    suffixes = {"", ".md", ".yaml", ".yml", ".toml", ".sh", ".Dockerfile", ".tpl", ".gotmpl", ".txt"}
    found = {
        path.relative_to(ROOT).as_posix()
        for top in ROOT.iterdir()
        if top.name not in UNREAD
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file() and path.suffix in suffixes and IMAGE.search(path.read_text(errors="replace"))
    }
    assert found == set(IMAGE_FILES)


def test_the_newest_release_in_the_changelog_is_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == VERSION
    assert headings[1][1], "a release has a date: ## [X.Y.Z] - YYYY-MM-DD"


def test_the_openapi_page_names_no_other_version() -> None:
    """BentoML writes `info.version` from the bento; our part of the page adds none."""
    from vigil import domains
    from vigil.transports.http import openapi

    described = json.dumps(openapi.paths([domains.load("payments")]))
    assert not re.search(rf'"version": "{NUMBER}"', described)
