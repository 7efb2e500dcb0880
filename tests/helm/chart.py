"""The chart as Helm renders it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT, part

CHART = ROOT / "helm"
TOOLS = ROOT / "build" / "tools"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
# Kubernetes that the chart is for: Chart.yaml names the oldest.
OLDEST, NEWEST = "1.30", "1.37"
NAMESPACE = "risk"


def tool(name: str, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program of `make tools`; without it the test is skipped."""
    program = part(TOOLS / name, "`make tools` fetches it, or says what it needs")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [program, *map(str, arguments)], input=given, capture_output=True, text=True, cwd=ROOT, env=environment
    )


def rendered(values: Path, kubernetes: str = NEWEST, chart: Path = CHART) -> str:
    """What Helm would install with these values, as YAML; the test fails where Helm refuses them."""
    done = tool(
        "helm", "template", "vigil", chart, "--values", values, "--kube-version", kubernetes, "--namespace", NAMESPACE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_keys(text: str) -> str:
    """Rendered YAML without the keys that Helm makes anew each time it renders."""
    made = r"vigil_[0-9a-f]{8}_\w+", r"[0-9a-f]{64}", r"(?<=id.\":.\")[0-9a-f]{8}", r"(?<=password: \")\w{32}"
    return re.sub("|".join((*made, r"(?<=://:)\w{32}", r"\d{4}-\d\d-\d\dT[\d:]+Z")), "...", text)


def objects(text: str) -> list[dict[str, Any]]:
    """The objects of rendered YAML."""
    return [found for found in yaml.safe_load_all(text) if found]


def refusal(*sets: str) -> str:
    """What Helm says against these values, on one line; the test fails where it takes them."""
    done = tool("helm", "template", "vigil", CHART, *(part for value in sets for part in ("--set-json", value)))
    assert done.returncode != 0, sets
    return " ".join(done.stderr.split())
