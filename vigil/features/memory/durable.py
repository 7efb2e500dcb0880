"""Feature state that outlives its process: a snapshot on disk and a journal of what came after it.

Every batch is appended to the journal before it counts, so a process that is killed loses nothing it has
answered; only a machine that loses power can lose what was not yet forced to disk (`VIGIL_JOURNAL_FSYNC_MS`).
Where the disk does not take it, nothing counts, `problem` says why, and a thread tries until the disk does.
At a clean stop, and whenever the journal has grown to `VIGIL_JOURNAL_MAX_BYTES`, it is folded into a new
snapshot, which replaces the old one atomically. Both carry the marks of the store: how far each source of
events had been read.

Files under `{VIGIL_STATE_DIR}/features/{domain}/`: `snapshot`, `journal-N` (N counts up; the snapshot
says from which N on it needs them) and `lock`, which one process holds and which notes the highest N.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil import descriptors
from vigil.domains.spec import Domain
from vigil.errors import StateError, Unavailable
from vigil.features.memory import files
from vigil.features.memory.journal import Header, Journal, encode_keys, journals
from vigil.features.memory.lock import Lock
from vigil.features.memory.restore import Restored, drop_journals, restore
from vigil.features.memory.snapshot import Place, write_snapshot
from vigil.features.memory.store import MemoryStore
from vigil.settings import Settings

log = logging.getLogger("vigil.features")

# How long a journal goes on as it is where a file could not be opened.
RETRY_S = 1.0
# How often a disk that has failed is tried.
PROBE_S = 0.1


class State:
    """A domain's store together with its files. `vigil.features.open.open_state` opens it; close it."""

    def __init__(self, domain: Domain, settings: Settings) -> None:
        self.folder = folder_of(domain, settings)
        self._settings = settings
        self._lock = Lock(self.folder)
        try:
            found = Restored(self.folder, domain, noted=self._lock.noted)
            self.store, self._state = found.store, found.place.state
            self._journal = self._open(found)
        except OSError as failure:
            self._lock.close()
            raise StateError(f"feature state {self.folder} cannot be opened: {failure}") from None
        except BaseException:
            self._lock.close()
            raise
        self._behind: Journal | None = None  # the journal before, until it is on the disk
        self._begun: int | None = None  # the present journal's number, until it is on the disk, too
        self._folding: threading.Thread | None = None
        self._not_before = 0.0
        self._guard = threading.RLock()  # of the journals and of `problem`
        self._wake, self._closing = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="vigil-journal", daemon=True)
        self._keeper.start()
        self.store.journal = self._append
        self.apply, self.feedback = self.store.apply, self.store.feedback

    def close(self) -> None:
        """Folds the journal into the snapshot and gives the files free. The store answers no more.

        Where the snapshot cannot be written, the journal stays.
        """
        self.abandon(release=False)
        try:
            write_snapshot(self.store, self.folder, self._place())
            drop_journals(self.folder, self._sequence + 1)
        except OSError as failure:
            log.error("%s keeps its journal, as no snapshot can be written: %s", self.folder, failure)
        finally:
            self._lock.close()

    def abandon(self, release: bool = True) -> None:
        """Gives the files free as they are: what the journal holds stays there."""
        self.store.journal = None
        self._closing.set()
        self._wake.set()
        self._keeper.join()
        if self._folding:
            self._folding.join()
        for journal in filter(None, (self._behind, self._journal)):
            journal.close()
        if release:
            self._lock.close()

    def _open(self, found: Restored) -> Journal:
        """The journal to go on with, on the disk; and the folder without what is no longer needed."""
        for path in found.unfinished, self.folder / "snapshot.new":
            if path:
                files.remove(path)
        drop_journals(self.folder, found.oldest)
        files.sync_folder(self.folder)  # names before contents: a file that is forced to disk is found there
        for path in found.before_last:  # what a killed process left to the system
            files.sync_path(path)
        if found.last:
            self._sequence = found.place.sequence - 1
            journal = found.last.resume()
            if found.last.header and not found.last.header.is_base_synced:
                journal.seal()
                journal.sync()
        else:
            self._sequence = found.place.sequence
            journal = self._create(found.place, is_base_synced=True)
            journal.sync()
            files.sync_folder(self.folder)
        self._lock.note(self._sequence)
        return journal

    def _create(self, place: Place, is_base_synced: bool) -> Journal:
        header = Header(
            domain=self.store.domain.name,
            spec_hash=self.store.domain.spec_hash,
            is_base_synced=is_base_synced,
            **place._asdict(),
        )
        with descriptors.reserved():
            return Journal.create(self.folder / f"journal-{place.sequence}", header)

    def _place(self) -> Place:
        """Of the journal after the present one."""
        return Place(self._sequence + 1, self._journal.number, self._journal.after, self._state)

    def _append(self, batch: npt.NDArray[np.int64], new_keys: Sequence[tuple[int, str]]) -> None:
        marks = self.store.new_marks
        keys = encode_keys(new_keys, marks) if new_keys or marks else b""
        rows, first = batch.tobytes(), self.store.count - len(new_keys)
        if not rows and not keys:
            return
        with self._guard:
            if self.store.problem:
                raise Unavailable(self.store.problem)
            try:
                self._journal.append(rows, keys, first)
            except OSError as failure:
                self._fail(failure)
                raise Unavailable(self.store.problem) from None
            marks.clear()
            if self._journal.size >= self._settings.journal_max_bytes:
                self._rotate()
        if not self._wake.is_set() and (self._settings.journal_fsync_ms or self._begun is not None):
            self._wake.set()

    def _rotate(self) -> None:
        """Goes on in a new journal, where the one before has been dealt with. The keeper does the rest."""
        now = time.monotonic()
        is_folding = self._begun is not None or (self._folding and self._folding.is_alive())
        if is_folding or now < self._not_before:
            return
        try:
            following = self._create(self._place(), is_base_synced=False)
        except OSError as failure:  # the batch counts: that is no reason to fail it
            self._not_before = now + RETRY_S
            log.warning("%s goes on as it is: %s", self._journal.path, failure.strerror)
            return
        self._behind, self._journal = self._journal, following
        self._sequence += 1
        self._begun = self._sequence

    def _fail(self, failure: OSError) -> None:
        """Lets nothing count until the keeper has mended the files."""
        with self._guard:
            first = not self.store.problem
            self.store.problem = f"feature state {self._journal.path} cannot be written: {failure.strerror}"
        self._wake.set()
        if first:
            log.error("%s; rules decide, and nothing counts until it can", self.store.problem)
            self.store.changed()

    # --- the keeper's thread ---

    def _keep(self) -> None:
        """Forces what has been written to disk, and mends what could not be written, each where it is time."""
        while not self._closing.is_set():  # it is set before what wakes, so no wake-up for it is lost
            self._wake.wait()
            if self._closing.wait(PROBE_S if self.store.problem else self._settings.journal_fsync_ms / 1000):
                return
            self._wake.clear()
            try:
                if self.store.problem:
                    self._mend()
                self._sync()
            except OSError as failure:
                if failure.errno in (errno.EMFILE, errno.ENFILE):  # the disk is not to blame: it is tried again
                    log.warning("%s is forced to disk later: %s", self._journal.path, failure.strerror)
                    self._wake.set()
                    self._closing.wait(PROBE_S)
                    continue
                log.debug("the disk fails: %s", failure)
                self._fail(failure)

    def _sync(self) -> None:
        with self._guard:
            journal, behind, begun = self._journal, self._behind, self._begun
        if behind:
            behind.sync()
            with descriptors.reserved():
                files.sync_folder(self.folder)
            with self._guard:
                journal.seal()
                self._behind = None
            behind.close()
        if begun is not None or self._settings.journal_fsync_ms:
            journal.sync()
        if begun is not None:
            self._lock.note(begun)
            self._folding = threading.Thread(target=self._fold, args=(begun,), name="vigil-fold")
            self._folding.start()
            self._begun = None

    def _mend(self) -> None:
        for journal in filter(None, (self._behind, self._journal)):
            with descriptors.reserved():
                journal.mend()
        with self._guard:
            self.store.problem = ""
        log.warning("feature state %s can be written again", self.folder)
        self.store.changed()

    def _fold(self, before: int) -> None:
        """Makes the snapshot that needs no journal older than `before`, from the files alone."""
        try:
            with descriptors.reserved():
                write_snapshot(*_folded(self.folder, self.store.domain, before))
                drop_journals(self.folder, before)
        except OSError as failure:
            log.error("could not fold the journal of %s; it keeps growing: %s", self.folder, failure)
        except Exception:
            log.exception("could not fold the journal of %s; it keeps growing", self.folder)


def _folded(folder: Path, domain: Domain, before: int) -> tuple[MemoryStore, Path, Place]:
    store, place = restore(folder, domain, before)
    return store, folder, place


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
    with Lock(folder) as lock:
        found, snapshot = journals(folder), folder / "snapshot"
        if (snapshot.exists() or found) and not replace:
            return False
        following = max([-1 if lock.noted is None else lock.noted, *found]) + 1
        write_snapshot(store, folder, Place.fresh(store.seed, following))
        drop_journals(folder, following)
    return True
