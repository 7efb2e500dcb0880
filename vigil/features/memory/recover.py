"""Makes a state from what can be read of damaged files, and says what it lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from vigil.domains.spec import Domain
from vigil.errors import StateError
from vigil.features.compiled import checks
from vigil.features.compiled.layout import B_IS_LABEL
from vigil.features.memory import files
from vigil.features.memory.durable import folder_of
from vigil.features.memory.journal import Entry, Reader, decode, journals, number_of
from vigil.features.memory.lock import Lock
from vigil.features.memory.restore import Restored, drop_journals
from vigil.features.memory.snapshot import Damage, Place, read_snapshot, write_snapshot
from vigil.features.memory.store import MemoryStore
from vigil.settings import Settings

_GONE = -1


@dataclass
class Report:
    """What a recovery has found.

    Attributes:
        kept: the folder with the files as they were.
        snapshot: whether it could be read; None where there was none, and none was needed.
        entries: of journals, that were read.
        missing: entries of journals that are not there or damaged.
        unreadable: bytes of journals that are no entry.
        events: that are lost though their entry was read, as one of their entities was not.
        passed_over: files of another state, another history or a Vigil before this format.
        entities, remembered: of the new state.
    """

    kept: Path
    snapshot: bool | None = None
    entries: int = 0
    missing: int = 0
    unreadable: int = 0
    events: int = 0
    entities: int = 0
    remembered: int = 0
    passed_over: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.entities:,} entities and {self.remembered:,} remembered events are in the new snapshot"
        yield f"{self.entries:,} entries of journals were read"
        if self.snapshot is False:
            yield "lost: the snapshot, which is damaged or gone, with all that only it held"
        if self.missing or self.unreadable:
            yield f"lost: {self.missing:,} entries of journals; {self.unreadable:,} bytes are damaged"
        if self.events:
            yield f"lost: {self.events:,} events whose entities were named in what is lost"
        for name in self.passed_over:
            yield f"passed over: {name}"
        yield f"the files as they were: {self.kept}"


def recover(domain: Domain, settings: Settings) -> Report | None:
    """Writes what can be read of a damaged state into a new snapshot; keeps the files in a folder beside it.

    An event counts if its entry and the names of its entities can be read, also after a damaged place. Windows
    that an event is missing from say less than they would.

    Returns:
        what was read and what is lost; None where nothing is damaged, and nothing was changed.

    Raises:
        StateError: where a running service holds the state, or its files are of another domain or feature spec, or
            the disk does not take the new snapshot.
    """
    try:
        return _recover(domain, folder_of(domain, settings))
    except OSError as failure:
        raise StateError(f"{failure.filename or 'a new snapshot'}: {failure.strerror}; nothing was removed") from None


def _recover(domain: Domain, folder: Path) -> Report | None:
    with Lock(folder) as lock:
        try:
            Restored(folder, domain, noted=lock.noted)
            return None
        except Damage:
            pass
        report = Report(_keep(folder))
        salvage = _Salvage(domain, folder, report)
        following = max([-1 if lock.noted is None else lock.noted, salvage.place.sequence - 1, *journals(folder)]) + 1
        write_snapshot(salvage.store, folder, Place.fresh(salvage.store.seed, following))
        drop_journals(folder, following)
        files.sync_folder(folder)
    report.entities, report.remembered = salvage.store.count, salvage.store.state.remembered
    return report


class _Salvage:
    def __init__(self, domain: Domain, folder: Path, report: Report) -> None:
        self.store, self.place = MemoryStore(domain), Place(0, 0, 0, 0)
        self._report = report
        self._is_known = False  # whether `place` says what state it is
        self._owners = bytearray()
        if (folder / "snapshot").exists():
            self._read_snapshot(folder / "snapshot")
        # Of each row of the files, the row of the new state.
        self._rows: npt.NDArray[np.int64] = np.arange(self.store.count)
        readers = map(Reader, journals(folder).values())
        for sequence, reader in sorted(((_sequence(reader), reader) for reader in readers), key=lambda pair: pair[0]):
            if sequence >= self.place.sequence:
                self._read_journal(reader)

    def _read_snapshot(self, path: Path) -> None:
        try:
            self.place = read_snapshot(self.store, path)
        except Damage:
            self._report.snapshot = False
            self.store = MemoryStore(self.store.domain)
            return
        self._report.snapshot = self._is_known = True
        self._owners = bytearray(self.store.count)
        for entity, rows in enumerate(self.store.rows):
            for row in rows.values():
                self._owners[row] = entity

    def _read_journal(self, reader: Reader) -> None:
        path, header, report = reader.path, reader.header, self._report
        if header:
            domain = self.store.domain
            if (header.domain, header.spec_hash) != (domain.name, domain.spec_hash):
                return self._pass_over(path, f"it is of domain {header.domain}, feature spec {header.spec_hash}")
            if self._is_known and header.state != self.place.state:
                return self._pass_over(path, "it belongs to another state")
            if header.entries < self.place.entries:
                return self._pass_over(path, "it holds what was read already, or another history")
            if header.entries == self.place.entries and header.after != self.place.after and self._is_known:
                return self._pass_over(path, "it does not follow what was read")
            if not self._is_known and header.entries:  # what they lie in is lost, and is no entry of a journal
                report.snapshot = False
                self.place = self.place._replace(entries=header.entries)
            if not self._is_known:
                self.store.seed = header.state
            self.place, self._is_known = self.place._replace(state=header.state), True
        elif reader.is_old(self.store.columns):
            return self._pass_over(path, "an earlier Vigil wrote it")
        whole = 0
        for entries in (reader, reader.rest()):
            for entry in entries:
                whole += entry.size
                if entry.number >= self.place.entries:
                    report.missing += entry.number - self.place.entries
                    self.place = self.place._replace(entries=entry.number + 1, after=entry.checksum)
                    self._apply(entry)
        report.unreadable += max(0, len(reader.data) - reader.start - whole)

    def _apply(self, entry: Entry) -> None:
        store, report = self.store, self._report
        columns = store.columns
        try:
            head = decode(entry.keys)
        except msgspec.MsgspecError:
            report.missing += 1
            return
        report.entries += 1
        if entry.is_seal:
            return
        self._add(entry.first, head.keys)
        batch = np.frombuffer(bytearray(entry.rows[: entry.rows.nbytes // (8 * columns) * 8 * columns]), np.int64)
        batch = batch.reshape(-1, columns)
        rows, events = batch[:, store.state.first :], batch[:, B_IS_LABEL] == 0
        inside = (rows >= 0) & (rows < len(self._rows))
        rows[:] = np.where(inside, self._rows[np.where(inside, rows, 0)] if len(self._rows) else _GONE, _GONE)
        lost = events & (rows == _GONE).any(axis=1)
        rows[~events] = 0
        kept = np.ascontiguousarray(batch[~lost])
        report.events += int(lost.sum())
        if checks.find_batch_fault(kept, store.state.first, np.frombuffer(bytes(self._owners), np.uint8)):
            report.missing += 1
            return
        if len(kept):
            store.apply(kept)
        store.marks.update(head.marks)

    def _add(self, first: int, keys: list[tuple[int, str]]) -> None:
        """Gives new entities their rows; those of the files between are not known."""
        if not keys or first < len(self._rows):
            return
        unknown = np.full(first - len(self._rows), _GONE)
        new = []
        for entity, key in keys:
            row = self.store.rows[entity].get(key)
            if row is None:
                row = self.store.add_row(entity, key)
                self._owners.append(entity)
            new.append(row)
        self._rows = np.concatenate([self._rows, unknown, np.array(new, np.int64)])

    def _pass_over(self, path: Path, why: str) -> None:
        self._report.passed_over += (f"{path.name}: {why}",)


def _sequence(reader: Reader) -> int:
    """The number of a journal, also where its file has the name of another."""
    return reader.header.sequence if reader.header else number_of(reader.path)


def _keep(folder: Path) -> Path:
    """A new folder that holds the files of a state as they are, beside them."""
    number = 1
    while (kept := folder / f"damaged-{number}").exists():
        number += 1
    files.make_folder(kept)
    for path in (folder / "snapshot", *journals(folder).values()):
        if path.exists():
            try:
                os.link(path, kept / path.name)
            except OSError:  # a file system without links
                shutil.copy2(path, kept / path.name)
                files.sync_path(kept / path.name)
    files.sync_folder(kept)
    return kept
