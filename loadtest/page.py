"""What a benchmark writes into a Markdown page: a section between two markers, with where it was measured."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from vigil import host
from vigil.errors import DataError

ROOT = Path(__file__).parent.parent


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(page: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        DataError: where the page has no such markers.
    """
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.read_text().partition(opening)
    _, closed, after = rest.partition(closing)
    if not found or not closed:
        raise DataError(f"{page}: wanted the markers {opening} and {closing}, each on a line")
    page.write_text(f"{before}{opening}\n{text.strip()}\n{closing}{after}")


def origin(command: str) -> str:
    """Command, commit, day and hardware, as a line."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"`{command}`, commit {commit()}, {day}; {hardware()}."


def commit() -> str:
    """The commit checked out, `+` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=7"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def hardware() -> str:
    """The processors and the memory."""
    memory = f"{gib:.0f} GiB" if (gib := host.memory_gib()) else "unknown memory"
    return f"{os.cpu_count() or 'unknown'} cores of {host.processor()}, {memory}"
