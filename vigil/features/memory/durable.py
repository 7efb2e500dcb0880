"""Feature state that outlives its process: a snapshot on disk and a journal of what came after it.

Every batch is appended to the journal before its features are returned, so a process that is killed
loses nothing it has answered; only a machine that loses power can lose what was not yet forced to
disk (`VIGIL_JOURNAL_FSYNC_MS`). At a clean stop, and whenever the journal has grown to
`VIGIL_JOURNAL_MAX_BYTES`, it is folded into a new snapshot, which replaces the old one atomically.
Both carry the marks of the store: how far each source of events had been read.

Files under `{VIGIL_STATE_DIR}/features/{domain}/`: `snapshot`, `journal-N` (N counts up; the snapshot
says from which N on it needs them) and `lock`, which one process holds.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64, xxh3_64_intdigest

from vigil import descriptors, host
from vigil.domains.spec import Domain
from vigil.errors import StateError
from vigil.features.memory.row_index import RowIndex
from vigil.features.memory.store import MemoryStore
from vigil.settings import Settings

log = logging.getLogger("vigil.features")

# How long a journal goes on as it is where a file could not be opened.
RETRY_S = 1.0
_MAGIC = b"VIGILST3"  # the last digit counts the layouts of the arrays
_ENTRY = struct.Struct("<IIQ")  # rows, bytes of new keys, checksum of both parts


class _Head(msgspec.Struct):
    """What a journal entry holds beside its rows, where it holds marks; without them, the list of keys alone."""

    keys: list[tuple[int, str]]
    marks: dict[str, int]


_head: msgspec.json.Decoder[_Head | list[tuple[int, str]]] = msgspec.json.Decoder(_Head | list[tuple[int, str]])


class State:
    """A domain's store together with its files. `vigil.features.open.open_state` opens it; close it."""

    def __init__(self, domain: Domain, settings: Settings) -> None:
        self.folder = folder_of(domain, settings)
        self._settings = settings
        self._lock = lock(self.folder)
        try:
            self.store, self._sequence = restore(self.folder, domain)
        except BaseException:
            self._lock.close()
            raise
        if not (self.folder / "snapshot").exists():  # it holds the seed of the keys in the journal
            write_snapshot(self.store, self.folder, self._sequence)
        self._folding: threading.Thread | None = None
        self._syncing: threading.Thread | None = None
        self._synced = time.monotonic()
        self._owed = b""
        self._not_before = 0.0
        self._journal = self._open_journal(self._sequence)
        self.store.journal = self._append
        self.apply, self.feedback = self.store.apply, self.store.feedback

    def close(self) -> None:
        """Folds the journal into the snapshot and gives the files free. The store answers no more."""
        self.abandon(release=False)
        write_snapshot(self.store, self.folder, self._sequence + 1)
        _drop_journals(self.folder, self._sequence + 1)
        self._lock.close()

    def abandon(self, release: bool = True) -> None:
        """Gives the files free as they are: what the journal holds stays there."""
        if self._folding:
            self._folding.join()
        _close(self._journal, self._syncing)
        self.store.journal = None
        if release:
            self._lock.close()

    def _append(self, batch: npt.NDArray[np.int64], new_keys: Sequence[tuple[int, str]]) -> None:
        keys, marks = b"", self.store.new_marks
        if marks:
            keys = msgspec.json.encode(_Head(list(new_keys), marks))
            marks.clear()
        elif new_keys:
            keys = msgspec.json.encode(new_keys)
        rows = batch.tobytes()
        self._owed += _ENTRY.pack(len(batch), len(keys), xxh3_64_intdigest(keys + rows)) + keys + rows
        try:
            while self._owed:  # a disk that runs full takes a part; the rest goes before what comes next
                self._owed = self._owed[self._journal.write(self._owed) :]
        except OSError as failure:
            raise StateError(f"{self._journal.name} cannot be written ({failure.strerror})") from None
        now = time.monotonic()
        if now >= self._not_before:
            try:
                self._keep(now)
            except OSError as failure:  # the batch counts: that is no reason to fail it
                self._not_before = now + RETRY_S
                log.warning("%s goes on as it is: %s", self._journal.name, failure.strerror)

    def _keep(self, now: float) -> None:
        """Has the journal forced to disk and folded, each in a thread, where it is time. Only folding opens files.

        Raises:
            OSError: where that needs a file that cannot be opened; nothing has changed then.
        """
        wait_ms = self._settings.journal_fsync_ms
        if wait_ms and (now - self._synced) * 1000 >= wait_ms and not (self._syncing and self._syncing.is_alive()):
            self._synced = now
            self._syncing = threading.Thread(target=host.sync, args=(self._journal.fileno(),), daemon=True)
            self._syncing.start()
        if self._journal.tell() >= self._settings.journal_max_bytes and not (
            self._folding and self._folding.is_alive()
        ):
            following = self._open_journal(self._sequence + 1)
            full, self._journal = self._journal, following
            self._sequence += 1
            self._folding = threading.Thread(
                target=self._fold, args=(self._sequence, full, self._syncing), name="vigil-fold"
            )
            self._folding.start()

    def _open_journal(self, sequence: int) -> BinaryIO:
        with descriptors.reserved():
            return open(self.folder / f"journal-{sequence}", "ab", buffering=0)

    def _fold(self, before: int, full: BinaryIO, syncing: threading.Thread | None) -> None:
        """Makes the snapshot that needs no journal older than `before`, from the files alone."""
        _close(full, syncing)
        try:
            with descriptors.reserved():
                store, _ = restore(self.folder, self.store.domain, before)
                write_snapshot(store, self.folder, before)
                _drop_journals(self.folder, before)
        except OSError as failure:
            log.error("could not fold the journal of %s; it keeps growing: %s", self.folder, failure)
        except Exception:
            log.exception("could not fold the journal of %s; it keeps growing", self.folder)


def _close(journal: BinaryIO, syncing: threading.Thread | None) -> None:
    if syncing:
        syncing.join()
    journal.close()


def folder_of(domain: Domain, settings: Settings) -> Path:
    """Where the files of a domain's state lie."""
    return settings.state_dir / "features" / domain.name


def seed(store: MemoryStore, settings: Settings, replace: bool = False) -> bool:
    """Makes `store`, as after a replayed history, the state a service starts with.

    Args:
        replace: also where there is a state already; else that one stays.

    Returns:
        whether it was written.

    Raises:
        StateError: where a running service holds the state.
    """
    folder = folder_of(store.domain, settings)
    with lock(folder):
        present = (folder / "snapshot").exists() or any(folder.glob("journal-*"))
        if present and not replace:
            return False
        last = max((int(path.name.split("-")[1]) for path in folder.glob("journal-*")), default=-1)
        write_snapshot(store, folder, last + 1)
        _drop_journals(folder, last + 1)
    return True


def restore(folder: Path, domain: Domain, before: int | None = None) -> tuple[MemoryStore, int]:
    """A store as the files of `folder` say.

    Args:
        folder: where snapshot and journals lie; may be empty.
        domain: whose state it is.
        before: reads no journal of this number or above; None: reads all.

    Returns:
        the store, and the number of the journal to go on with.
    """
    store, sequence = MemoryStore(domain), 0
    if (folder / "snapshot").exists():
        sequence = read_snapshot(store, folder / "snapshot")
    while (path := folder / f"journal-{sequence}").exists() and (before is None or sequence < before):
        good = 0
        for batch, head, end in _entries(path, store.columns):
            for entity, key in head.keys:
                store.add_row(entity, key)
            store.apply(batch)
            store.marks.update(head.marks)
            good = end
        if good < path.stat().st_size:
            log.warning("%s ends in a torn entry at byte %d: dropped", path, good)
            os.truncate(path, good)
        sequence += 1
    return store, sequence


def write_snapshot(store: MemoryStore, folder: Path, sequence: int = 0) -> Path:
    """Writes the whole state of `store`, forced to disk, in place of an earlier snapshot.

    Args:
        sequence: the first journal whose entries the snapshot does not hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = store.compacted()
    header = {
        "domain": store.domain.name,
        "spec_hash": store.domain.spec_hash,
        "sequence": sequence,
        "marks": store.marks,
        "rows": [list(rows.items()) for rows in store.rows],
        "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in parts.items()},
    }
    encoded = msgspec.msgpack.encode(header)
    path = folder / "snapshot"
    digest = xxh3_64()
    with open(folder / "snapshot.new", "wb") as file:
        for chunk in (_MAGIC, struct.pack("<Q", len(encoded)), encoded, *(array.tobytes() for array in parts.values())):
            digest.update(chunk)
            file.write(chunk)
        file.write(digest.digest())
        file.flush()
        host.sync(file.fileno())
    os.replace(folder / "snapshot.new", path)
    return path


def read_snapshot(store: MemoryStore, path: Path) -> int:
    """Fills a fresh `store` from a snapshot.

    Returns:
        the number of the first journal to apply on top.

    Raises:
        StateError: where the file is damaged, of another layout, domain or feature spec.
    """
    data = _map(path)
    if data[:7] == _MAGIC[:7] and data[:8] != _MAGIC:
        came, wanted = bytes(data[7:8]).decode("latin-1"), _MAGIC[7:].decode()
        raise StateError(f"{path} has layout {came}, wanted {wanted}: make it anew with vigil train")
    if data[:8] != _MAGIC or xxh3_64(data[:-8]).digest() != data[-8:]:
        raise StateError(f"{path} is damaged (its checksum does not match); restore it from a backup or remove it")
    size = struct.unpack_from("<Q", data, 8)[0]
    header: dict[str, Any] = msgspec.msgpack.decode(data[16 : 16 + size])
    for key, wanted in (("domain", store.domain.name), ("spec_hash", store.domain.spec_hash)):
        if header[key] != wanted:
            raise StateError(f"{path} was made for {key} {header[key]}, wanted {wanted}: make it anew with vigil train")
    at = 16 + size
    arrays = {}
    for name, (dtype, shape) in header["arrays"].items():
        arrays[name] = np.frombuffer(data, dtype, int(np.prod(shape)), at).reshape(shape)
        at += arrays[name].nbytes
    store.marks = header.get("marks", {})
    store.adopt(arrays, [RowIndex(pairs) for pairs in header["rows"]])
    return int(header["sequence"])


def _entries(path: Path, columns: int) -> Iterator[tuple[npt.NDArray[np.int64], _Head, int]]:
    data = _map(path)
    at = 0
    while at + _ENTRY.size <= len(data):
        rows, keys, checksum = _ENTRY.unpack_from(data, at)
        body = data[at + _ENTRY.size : at + _ENTRY.size + keys + rows * columns * 8]
        if len(body) < keys + rows * columns * 8 or xxh3_64_intdigest(body) != checksum:
            return
        at += _ENTRY.size + len(body)
        found = _head.decode(body[:keys]) if keys else []
        head = found if isinstance(found, _Head) else _Head(found, {})
        # A copy: to the kernel, what is read-only or not aligned is of another type, and it would be compiled anew.
        yield np.frombuffer(body[keys:], np.int64).reshape(rows, columns).copy(), head, at


def _map(path: Path) -> memoryview:
    """What a file holds, without taking memory for it."""
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")


def _drop_journals(folder: Path, before: int) -> None:
    for path in folder.glob("journal-*"):
        if int(path.name.split("-")[1]) < before:
            path.unlink()


def lock(folder: Path) -> BinaryIO:
    """The lock of a folder of state, held until it is closed.

    Raises:
        StateError: where another process holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "ab")  # noqa: SIM115
    except OSError as failure:
        who = f"user {os.getuid()}"
        raise StateError(
            f"{failure.filename}: {failure.strerror}; VIGIL_STATE_DIR must be a folder that {who} owns"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StateError(
            f"{folder} is in use by another process: memory state belongs to one; stop that one, "
            "or give this one a VIGIL_STATE_DIR of its own"
        ) from None
    return file
