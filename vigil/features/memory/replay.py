"""Applies entries of journals to a store, many at once, after a look at what they refer to."""

from __future__ import annotations

import msgspec
import numpy as np

from vigil.features.compiled import checks
from vigil.features.memory.journal import Entry, decode
from vigil.features.memory.store import MemoryStore

ROWS = 4096  # applied at once


class Fault(Exception):
    """An entry that is whole, but does not fit the state."""


class Replay:
    """Applies entries to a store in order.

    Args:
        store: as it was before the first of them.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self._bytes = 8 * store.columns
        self._parts: list[memoryview] = []
        self._size = 0
        self._marks: dict[str, int] = {}
        self._owners = bytearray(store.count)
        for entity, rows in enumerate(store.rows):
            for row in rows.values():
                self._owners[row] = entity

    def add(self, entry: Entry) -> None:
        """Takes an entry; `flush` after the last.

        Raises:
            Fault: where it, or one before it, does not fit.
        """
        size, new = entry.rows.nbytes, self._add_keys(entry) if entry.keys.nbytes else 0
        if not size and not entry.keys.nbytes:  # a seal
            return
        if entry.first + new != self.store.count:
            raise Fault(f"new entities in row {entry.first} of {self.store.count}")
        if size % self._bytes:
            raise Fault(f"rows of {size} bytes")
        self._parts.append(entry.rows)
        self._size += size
        if self._size >= ROWS * self._bytes:
            self.flush()

    def flush(self) -> None:
        """Applies what has been taken.

        Raises:
            Fault: where a row is none.
        """
        # To the kernel, what is read-only or not aligned is of another type, and it would be compiled anew.
        joined = bytearray().join(self._parts)
        self._parts, self._size = [], 0
        batch = np.frombuffer(joined, np.int64).reshape(-1, self.store.columns)
        if fault := checks.find_batch_fault(batch, self.store.state.first, np.frombuffer(self._owners, np.uint8)):
            raise Fault(fault)
        if len(batch):
            self.store.apply(batch)
        self.store.marks.update(self._marks)
        self._marks = {}

    def _add_keys(self, entry: Entry) -> int:
        try:
            head = decode(entry.keys)
        except msgspec.MsgspecError as failure:
            raise Fault(f"keys that cannot be read ({failure})") from None
        for entity, key in head.keys:
            if not 0 <= entity < len(self.store.rows) or key in self.store.rows[entity]:
                raise Fault(f"entity {key!r} for a second time")
            self.store.add_row(entity, key)
            self._owners.append(entity)
        self._marks.update(head.marks)
        return len(head.keys)
