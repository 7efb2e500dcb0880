"""What a benchmark writes into a Markdown page: a section between two markers, with where it was measured."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtest.served import ROOT
from vigil.errors import DataError


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
    return f"`{command}`, commit {commit()}, {day}; {hardware(Path('/proc/cpuinfo').read_text())}."


def commit() -> str:
    """The commit checked out, `+` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=7"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    except FileNotFoundError:
        return "unknown"


def hardware(cpuinfo: str) -> str:
    """The processor by the text of /proc/cpuinfo, and the memory."""
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {names[0] if names else 'an unnamed processor'}, {gib:.0f} GiB"
