"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / "build" / "clients"
TOOLS = ROOT / "build" / "tools"


def part(path: Path, remedy: str) -> str:
    """The path of a part that a test needs; without it the test is skipped, and under `CI=true` it fails."""
    if path.exists():
        return str(path)
    line = f"{path.relative_to(ROOT)} is missing: {remedy}"
    if os.environ.get("CI") == "true":
        pytest.fail(line)
    pytest.skip(line)


def tool(name: str) -> str:
    """The path of a program that `make tools` fetches; as :func:`part` where it is missing."""
    return part(TOOLS / name, "`make tools` fetches it")
