"""Decision records on disk: any process that sees the folder can read them all, each that writes has a part of its own.

Files under `{VIGIL_STATE_DIR}/decisions/`: a folder a writing process (`0`, `1`, ...), which holds its `lock`, and in
it the segments of `vigil.decisions.segment`, named by the time each was begun.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from vigil import descriptors
from vigil.decisions import segment
from vigil.decisions.segment import INDEX, RECORDS, SORTED, SORTING, Found, Segment
from vigil.domains.schema import UNREADABLE, key_of
from vigil.settings import Settings

SEGMENT_BYTES = 64 << 20
SEGMENT_MS = 3_600_000
MOST_WRITERS = 256
PARTS = (RECORDS, INDEX, SORTED, SORTING)


class _Head(msgspec.Struct):
    event_id: str | int
    domain: str


_head = msgspec.json.Decoder(_Head)


def folder(settings: Settings) -> Path:
    """Where the records of these settings lie."""
    return settings.state_dir / "decisions"


class Archive:
    """Reads what any process has written.

    Args:
        root: the folder of all; it need not be there yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def segments(self) -> list[Path]:
        """The files of records, oldest first."""
        return sorted(self.root.glob(f"*/*{RECORDS}"), key=lambda path: (path.name, path.parent.name))

    def find(self, event_id: str, domain: str = "") -> Found | None:
        """The record of an event that was written last; None where there is none.

        Args:
            event_id: as text; that of 5 is found by "5".
            domain: whose event it is; "": of any domain.
        """
        key, best = key_of(event_id, 0), None
        for path in reversed(self.segments()):
            # What other processes wrote at the same time is in segments begun at most one segment's span before.
            if best and int(path.stem) + SEGMENT_MS < best.written_ms:
                break
            for found in segment.find(path, key):
                try:
                    head = _head.decode(found.record)
                except UNREADABLE:  # torn by a power failure
                    continue
                if str(head.event_id) == event_id and domain in ("", head.domain):
                    if best is None or found.written_ms > best.written_ms:
                        best = found
                    break
        return best

    def lines(self) -> Iterator[bytes]:
        """All records, segment by segment, oldest first; what is being written just now may be missing."""
        for path in self.segments():
            try:
                with path.open("rb") as file:
                    for line in file:
                        if line.endswith(b"\n"):
                            yield line[:-1]
            except FileNotFoundError:  # too old by now
                continue

    def retain(self, oldest_ms: int, max_bytes: int) -> int:
        """Removes the segments that were written to last the longest ago: before `oldest_ms`, and what is over
        `max_bytes`.

        Returns:
            how many bytes are left.
        """
        kept = []
        # By any of their files, as who was killed while it removed one has left some of them.
        for path in {part.with_suffix(RECORDS) for part in self.root.glob("*/*") if part.suffix in PARTS}:
            there = {end: found for end in PARTS if (found := _stat(path.with_suffix(end)))}
            written_ms = there[RECORDS].st_mtime_ns // 1_000_000 if RECORDS in there else 0
            kept.append((written_ms, sum(found.st_size for found in there.values()), path))
        total = sum(size for _, size, _ in kept)
        for written_ms, size, path in sorted(kept):
            if written_ms < oldest_ms or total > max_bytes:
                for end in PARTS:
                    path.with_suffix(end).unlink(missing_ok=True)
                total -= size
        return total


def _stat(path: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return path.stat()
    return None


class Writer:
    """Appends to an archive, as one of its processes.

    Args:
        archive: to which.
        days: how long records are kept.
        max_bytes: how many bytes of all processes together are kept.

    Raises:
        OSError: where its folder cannot be written.
    """

    def __init__(self, archive: Archive, days: float, max_bytes: int) -> None:
        self._archive, self._span_ms = archive, round(days * 86_400_000)
        self._max_bytes = max_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max(max_bytes // 8, 1))
        self._segment: Segment | None = None
        self._folder, self._lock = _own(archive.root)
        self._mend()

    def append(self, event_ids: list[str | int], records: list[bytes], now_ms: int) -> None:
        """Writes records, all or none, to a new segment where the present one is full or old.

        Raises:
            OSError: as on a full disk.
        """
        present = self._segment
        if present and (present.size >= self._segment_bytes or now_ms - present.began_ms >= SEGMENT_MS or present.gone):
            self._segment = None
            present.close()
        if self._segment is None:
            with descriptors.reserved():
                self._segment = self._begin(now_ms)
        self._segment.append(event_ids, records, now_ms)

    def _begin(self, now_ms: int) -> Segment:
        if not os.fstat(self._lock.fileno()).st_nlink:  # somebody has removed the folder
            before = self._lock
            self._folder, self._lock = _own(self._archive.root)
            before.close()
            self._mend()
        self.retain(now_ms)
        newest = max((int(path.stem) for path in self._folder.glob(f"*{RECORDS}")), default=-1)
        return Segment(self._folder, max(now_ms, newest + 1))

    def _mend(self) -> None:
        for path in sorted(self._folder.glob(f"*{RECORDS}")):
            if segment.needs_mending(path):
                with suppress(FileNotFoundError):  # removed meanwhile
                    segment.mend(path)

    def retain(self, now_ms: int) -> None:
        """Removes what is too old or too much, leaving room for another segment."""
        self._archive.retain(now_ms - self._span_ms, self._max_bytes - self._segment_bytes)

    def close(self) -> None:
        """What was written is on disk; the folder is free for another process."""
        try:
            if self._segment:
                self._segment.close()
        finally:
            self._lock.close()


def _own(root: Path) -> tuple[Path, BinaryIO]:
    """The first folder that no other process holds."""
    for number in range(MOST_WRITERS):
        mine = root / str(number)
        mine.mkdir(parents=True, exist_ok=True)
        lock = (mine / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        except OSError:
            lock.close()
            raise
        return mine, lock
    raise OSError(f"{root}: {MOST_WRITERS} processes write to it already")
