"""What operating systems do differently: here is what each has, and what takes its place where it has not."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

PYTHONS = ((3, 11), (3, 14))
"""Vigil runs on Python from the first up to, and without, the second; as `requires-python` in pyproject.toml."""

_CPUINFO = Path("/proc/cpuinfo")


def sync(descriptor: int) -> None:
    """Returns once a file's content is on its disk, not only in the disk's own memory.

    Raises:
        OSError: where it cannot be written.
    """
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError:  # a file system, such as one over a network, that has no such thing
            os.fsync(descriptor)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as far as the system tells it; else its architecture."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "an unknown processor"


def memory_gib() -> float | None:
    """Memory of the machine in GiB; None where the system does not tell."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return size / 2**30 if size > 0 else None
