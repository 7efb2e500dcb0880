"""A disk that fails once, or loses its power, under the files of a state."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from vigil.features.memory import files

OPERATIONS = (
    "make_folder", "create", "open_file", "write", "truncate", "sync", "sync_path", "sync_folder", "rename", "remove",
)  # fmt: skip


class Op(NamedTuple):
    """An operation that has succeeded. `began` counts those before its call."""

    name: str
    path: Path
    what: Any
    began: int


class Disk:
    """Records what `vigil.features.memory.files` does, and makes one operation fail.

    Args:
        fail: the number of the operation that fails, of those that `chosen` picks; None: none does.
    """

    def __init__(
        self, fail: int | None = None, chosen: Callable[[str, Path], bool] = lambda name, path: True, number: int = 0
    ) -> None:
        self.ops: list[Op] = []
        self.failed: tuple[str, Path] | None = None
        self.count = 0
        self._fail, self._chosen, self._errno = fail, chosen, number or errno.ENOSPC
        self._paths: dict[int, Path] = {}
        self._guard = threading.RLock()

    @contextmanager
    def beneath(self) -> Iterator[Disk]:
        """In the block, all states' files lie on this disk."""
        with pytest.MonkeyPatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(files, name, self._wrapped(name, getattr(files, name)))
            yield self

    def answered(self, i: int) -> None:
        """Notes that an event has been answered."""
        with self._guard:
            self.ops.append(Op("answered", Path(), i, len(self.ops)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            first = args[0]
            with self._guard:
                path = self._paths.get(first, Path("lock")) if isinstance(first, int) else first
                fails = self._chosen(name, path) and self._turn()
                began = len(self.ops)
                if fails:
                    self.failed = name, path
            if fails:
                if name == "write":
                    real(first, bytes(args[1])[: len(args[1]) // 2], args[2])
                raise OSError(self._errno, os.strerror(self._errno), str(path))
            if name in ("sync", "sync_path", "sync_folder"):  # no power fails here, so nothing waits for the real disk
                with self._guard:
                    self.ops.append(Op("sync" if name == "sync_path" else name, path, None, began))
                return None
            with self._guard:  # in the order in which they are done
                found = real(*args)
                if name in ("create", "open_file"):
                    self._paths[found] = path
                what = (bytes(args[1]), args[2]) if name == "write" else args[1] if len(args) > 1 else None
                self.ops.append(Op(name, path, what, len(self.ops)))
            return found

        return call

    def _turn(self) -> bool:
        self.count += 1
        return self.count - 1 == self._fail


def after_power_failure(ops: list[Op], at: int, folder: Path, to: Path, rng: np.random.Generator) -> None:
    """Writes into `to` what a disk could hold of `folder` if the power had failed after the first `at` operations.

    Content that was not synced is lost, kept, or torn; names that were not synced are lost or kept, in order.
    """
    contents: dict[int, _File] = {}
    names: dict[Path, int] = {}
    kept: dict[Path, int] = {}
    pending: list[tuple[str, Path, Any]] = []
    now = dict[Path, int]()

    def rename(table: dict[Path, int], kind: str, path: Path, what: Any) -> None:
        if kind == "create":
            table[path] = what
        elif kind == "rename" and path in table:
            table[what] = table.pop(path)
        elif kind == "remove":
            table.pop(path, None)

    for i, op in enumerate(ops[:at]):
        if op.name == "create" and op.path not in names:
            names[op.path] = len(contents)
            contents[names[op.path]] = _File()
            pending.append(("create", op.path, names[op.path]))
        elif op.name == "create":
            contents[names[op.path]].do(i, "truncate", 0)
        elif op.name in ("rename", "remove"):
            pending.append((op.name, op.path, op.what))
            rename(names, op.name, op.path, op.what)
        elif op.name in ("write", "truncate") and op.path in names:
            contents[names[op.path]].do(i, op.name, op.what)
        elif op.name == "sync" and op.path in names:
            contents[names[op.path]].sync(op.began)
        elif op.name == "sync_folder" and op.path == folder:
            for each in pending:
                rename(kept, *each)
            pending = []
    now = dict(kept)
    for each in pending[: int(rng.integers(len(pending) + 1))]:
        rename(now, *each)
    to.mkdir()
    for path, number in now.items():
        (to / path.name).write_bytes(contents[number].survivor(rng))


class _File:
    def __init__(self) -> None:
        self._synced = b""
        self._ops: list[tuple[int, str, Any]] = []

    def do(self, i: int, name: str, what: Any) -> None:
        self._ops.append((i, name, what))

    def sync(self, began: int) -> None:
        done = [op for op in self._ops if op[0] < began]
        for _, name, what in done:
            self._synced = _done(self._synced, name, what)
        self._ops = self._ops[len(done) :]

    def survivor(self, rng: np.random.Generator) -> bytes:
        content = self._synced
        many = int(rng.integers(len(self._ops) + 1))
        for _, name, what in self._ops[:many]:
            content = _done(content, name, what)
        if many < len(self._ops) and self._ops[many][1] == "write":
            data, offset = self._ops[many][2]
            torn = int(rng.integers(len(data) + 1))
            content = _done(content, "write", (data[:torn], offset))
            if rng.random() < 0.5:
                content = _done(content, "write", (bytes(len(data) - torn), offset + torn))
        return content


def _done(content: bytes, name: str, what: Any) -> bytes:
    if name == "truncate":
        return content[:what]
    data, offset = what
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]
