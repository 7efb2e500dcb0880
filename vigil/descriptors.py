"""File descriptors kept back from connections, so that files can be opened while callers hold all others."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A journal and its fold, a segment of records and a model are opened together at worst.
RESERVED = 32
# Stands for no limit.
MOST = 1 << 30
_lock = threading.Lock()
_limit = _lowered = _inside = 0


def reserve() -> None:
    """Lowers this process's limit by `RESERVED`, at most by a quarter.

    The kernel then refuses to accept a connection, of HTTP or gRPC, that would take one of them.
    """
    global _limit, _lowered
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _limit and soft != resource.RLIM_INFINITY:
        _limit, _lowered = soft, soft - min(RESERVED, soft // 4)
        _set(_lowered)


def free(above: int) -> int:
    """How many descriptors connections may still take, at least, where the newest is number `above`.

    The kernel gives the lowest number that is free. So no count is needed.
    """
    return _lowered - 1 - above if _limit else MOST


def unused() -> int:
    """How many descriptors connections could take now, of those that `reserve` does not or will not keep back."""
    probe = os.dup(2)
    os.close(probe)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    return max(0, (_lowered or soft - min(RESERVED, soft // 4)) - probe)


@contextmanager
def reserved() -> Iterator[None]:
    """In the block, files can be opened with descriptors that `reserve` keeps back."""
    global _inside
    with _lock:
        _inside += 1
        if _limit and _inside == 1:
            _set(_limit)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _limit and not _inside:
                _set(_lowered)


def _set(soft: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
