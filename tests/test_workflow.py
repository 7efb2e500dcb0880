"""The hosted workflow and the hooks call what the Makefile and the pinned environment have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
VERBS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
PYTHONS = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    return found


def test_the_hosted_workflow_runs_verbs_of_make_and_nothing_else() -> None:
    commands = [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        assert command.startswith("make ")
        assert command.split()[1] in VERBS


def test_the_hosted_workflow_tries_every_python_that_vigil_takes() -> None:
    assert PYTHONS
    wanted = {f"3.{minor}" for minor in range(int(PYTHONS[1]), int(PYTHONS[2]))}
    assert set(jobs()["fast"]["strategy"]["matrix"]["python"]) == wanted


def test_hooks_run_what_is_pinned_and_download_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [each["repo"] for each in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
