"""One file of decision records, a line each, and the index beside it that says where in it an event's are.

`N.jsonl` only grows. `N.index` grows with it, an entry a record, until no more is written: then it is sorted
(in `N.new`), and called `N.sorted`. A process that is killed between the two leaves records without an entry, or half
a line; `mend` finds the ones and cuts off the other. Retention of any process may remove all of them at any time.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from vigil import host
from vigil.domains.schema import UNREADABLE, key_of, keys_of

RECORDS, INDEX, SORTED, SORTING = ".jsonl", ".index", ".sorted", ".new"
# Key of the event id, when it was written (epoch milliseconds), and where.
ENTRY = np.dtype([("key", "<i8"), ("ms", "<i8"), ("start", "<u4"), ("size", "<u4")])
Entries = npt.NDArray[np.void]


class _Head(msgspec.Struct):
    event_id: str | int


_head = msgspec.json.Decoder(_Head)


class Found(NamedTuple):
    """A record's JSON, and when it was written, epoch milliseconds."""

    record: bytes
    written_ms: int


class Segment:
    """Writes one segment.

    Args:
        folder: where.
        began_ms: names it; the time, epoch milliseconds UTC.

    Raises:
        OSError: where it cannot be.
    """

    def __init__(self, folder: Path, began_ms: int) -> None:
        self.began_ms, self.size = began_ms, 0
        self._entries = 0
        self.path = folder / f"{began_ms:013d}{RECORDS}"
        self._records = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        try:
            self._index = os.open(self.path.with_suffix(INDEX), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError:
            os.close(self._records)
            self.path.unlink(missing_ok=True)
            raise

    @property
    def gone(self) -> bool:
        """Whether it was removed meanwhile: what is appended to it, nobody finds."""
        return os.fstat(self._records).st_nlink == 0

    def append(self, event_ids: Sequence[str | int], records: Sequence[bytes], now_ms: int) -> None:
        """Writes records: all of them or, where that fails, none.

        Raises:
            OSError: as on a full disk.
        """
        lengths = np.fromiter(map(len, records), np.int64, len(records)) + 1
        ends = self.size + np.cumsum(lengths)
        entries = np.empty(len(records), ENTRY)
        entries["key"], entries["ms"] = keys_of(event_ids, 0), now_ms
        entries["start"], entries["size"] = ends - lengths, lengths - 1
        try:
            _write(self._records, b"\n".join(records) + b"\n")
            _write(self._index, entries.tobytes())
        except OSError:
            os.ftruncate(self._records, self.size)
            os.ftruncate(self._index, self._entries * ENTRY.itemsize)
            raise
        self.size, self._entries = int(ends[-1]), self._entries + len(records)

    def close(self) -> None:
        """Nothing more is written: forces the records to disk and sorts the index."""
        try:
            host.sync(self._records)
        finally:
            os.close(self._records)
            os.close(self._index)
        with suppress(FileNotFoundError):  # removed meanwhile
            _sort(self.path, _grown(self.path))


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _grown(path: Path) -> Entries:
    raw = path.with_suffix(INDEX).read_bytes()
    return np.frombuffer(raw, ENTRY, len(raw) // ENTRY.itemsize)


def _sort(path: Path, entries: Entries) -> None:
    ordered = entries[np.lexsort((entries["start"], entries["key"]))]
    new = path.with_suffix(SORTING)
    with new.open("wb") as file:
        # A column behind the other, so that a search touches few pages of the first.
        for name in ENTRY.names or ():
            file.write(ordered[name].tobytes())
        file.flush()
        host.sync(file.fileno())  # before what it is made of goes
    new.replace(path.with_suffix(SORTED))
    path.with_suffix(INDEX).unlink(missing_ok=True)
    if not path.exists():  # removed meanwhile
        path.with_suffix(SORTED).unlink(missing_ok=True)


def needs_mending(path: Path) -> bool:
    """Whether the process that wrote the segment at `path` ended without closing it, or its index is lost."""
    return path.with_suffix(INDEX).exists() or not path.with_suffix(SORTED).exists()


def mend(path: Path) -> None:
    """Closes the segment of a process that has ended without: half a line is cut off, an entry made for each record.

    Raises:
        OSError: where it cannot be read or written; FileNotFoundError where it was removed meanwhile.
    """
    with path.open("r+b") as file:
        before = os.fstat(file.fileno())
        try:
            entries = _grown(path)
        except FileNotFoundError:
            entries = np.empty(0, ENTRY)
        entries = entries[entries["start"].astype(np.int64) + entries["size"] < before.st_size]
        start = int(entries["start"][-1]) + int(entries["size"][-1]) + 1 if len(entries) else 0
        file.seek(start)
        rest = file.read()
        whole = rest[: rest.rfind(b"\n") + 1]
        file.truncate(start + len(whole))
        os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))  # its records are as old as they were
        host.sync(file.fileno())
    found = []
    for line in whole.split(b"\n")[:-1]:
        with suppress(*UNREADABLE):  # as zeros after a power failure are
            key = key_of(_head.decode(line).event_id, 0)
            found.append((key, before.st_mtime_ns // 1_000_000, start, len(line)))
        start += len(line) + 1
    _sort(path, np.concatenate((entries, np.array(found, ENTRY))))


def find(path: Path, key: int) -> Iterator[Found]:
    """What a segment holds under the key of an event id, the last first: mostly one, or none.

    Segments that are gone, as retention removes them, hold nothing.
    """
    try:
        places = _places(path, key)
        if len(places):
            with path.open("rb") as file:
                for _, written_ms, start, size in reversed(places.tolist()):
                    file.seek(start)
                    line = file.read(size + 1)
                    if line.endswith(b"\n"):
                        yield Found(line[:-1], written_ms)
    except FileNotFoundError:
        return


def _places(path: Path, key: int) -> Entries:
    ordered = path.with_suffix(SORTED)
    try:
        with ordered.open("rb") as file:
            return _sorted_places(file.fileno(), key)
    except FileNotFoundError:
        try:
            grown = _grown(path)
        except FileNotFoundError:
            if not ordered.exists():
                raise
            return _places(path, key)  # it was sorted just now
        same: Entries = grown[grown["key"] == key]
        return same


def _sorted_places(file: int, key: int) -> Entries:
    count = os.fstat(file).st_size // ENTRY.itemsize
    if not count:
        return np.empty(0, ENTRY)
    pages = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    keys = np.frombuffer(pages, ENTRY["key"], count)
    first, end = (int(np.searchsorted(keys, key, side)) for side in ("left", "right"))
    found, at = np.empty(end - first, ENTRY), 0
    if len(found):
        for name in ENTRY.names or ():
            found[name] = np.frombuffer(pages, ENTRY[name], count, at)[first:end]
            at += count * ENTRY[name].itemsize
    return found
