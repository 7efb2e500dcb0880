"""What a process and all below it use."""

from __future__ import annotations

from collections.abc import Iterator

import psutil


def tree(pid: int) -> Iterator[psutil.Process]:
    """The process and its descendants."""
    root = psutil.Process(pid)
    yield root
    yield from root.children(recursive=True)


def cpu_s(pid: int) -> float:
    """CPU seconds of the tree so far, those of ended children that were waited for included."""
    return float(sum(sum(process.cpu_times()[:4]) for process in tree(pid)))


def memory_mb(pid: int) -> float:
    """Memory of the tree in MB (10^6 bytes): proportional set size, which counts a shared page once; where the system
    has no such thing, what each process has for itself."""
    infos = [process.memory_full_info() for process in tree(pid)]
    return float(sum(getattr(info, "pss", info.uss) for info in infos) / 1e6)
