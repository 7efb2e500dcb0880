"""Reads a state from its snapshot and journals. What is damaged before its end is refused, and nothing is changed."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from vigil.domains.spec import Domain
from vigil.errors import StateError
from vigil.features.memory import files
from vigil.features.memory.journal import Header, Reader, journals, number_of
from vigil.features.memory.replay import Fault, Replay
from vigil.features.memory.snapshot import Damage, Place, read_snapshot
from vigil.features.memory.store import MemoryStore

log = logging.getLogger("vigil.features")


class Restored:
    """A state as its files say. Reading changes none of them.

    Args:
        folder: where snapshot and journals lie; may be empty.
        domain: whose state it is.
        before: reads no journal of this number or above; None: reads all.
        noted: the highest number of a journal that was forced to disk; None where it is not known.

    Attributes:
        store: the state.
        place: of what comes next.
        last: the last journal, read to its end, to go on with; None where the next one is to be made.
        before_last: the journals before it.
        oldest: the number of the oldest journal that is needed.
        unfinished: the journal whose making a power failure has interrupted, to be removed.

    Raises:
        Damage: with what can be read, what is lost and how to go on.
        StateError: for files of another domain, feature spec or layout.
    """

    def __init__(self, folder: Path, domain: Domain, before: int | None = None, noted: int | None = None) -> None:
        self.store = MemoryStore(domain)
        self.last: Reader | None = None
        self.before_last: list[Path] = []
        self.unfinished: Path | None = None
        self._folder, self._found, self._noted = folder, journals(folder), noted
        self._snapshot = folder / "snapshot"
        has_snapshot = self._snapshot.exists()
        if has_snapshot:
            self.place = self._read_snapshot()
        else:
            self.place = self._beginning()
            self.store.seed = self.place.state
        self.oldest = self.place.sequence
        replay = Replay(self.store)
        while (path := self._found.get(self.place.sequence)) and (before is None or self.place.sequence < before):
            try:
                if not self._apply(path, replay):
                    break
            except Fault as fault:
                raise self._damage(self.last or Reader(path), str(fault)) from None
        if before is None:
            self._check_nothing_missing(has_snapshot)

    def _read_snapshot(self) -> Place:
        try:
            return read_snapshot(self.store, self._snapshot)
        except Damage as refusal:
            raise Damage(f"{refusal}; {self._remedy()}") from None

    def _beginning(self) -> Place:
        header = Reader(self._found[0]).header if 0 in self._found else None
        return Place(0, 0, 0, header.state if header else secrets.randbits(63))

    def _apply(self, path: Path, replay: Replay) -> bool:
        """Applies a journal; False where no other can follow."""
        reader = Reader(path)
        header = reader.header
        if header is None:
            was_noted = self._noted is not None and self._noted >= self.place.sequence
            if was_noted or not reader.is_blank or self._has_later(self.place.sequence):
                raise self._header_damage(reader)
            self.unfinished = path
            log.warning("%s was being made when the machine stopped: it holds nothing, and is made anew", path)
            return False
        self._check_owner(path, header)
        if (header.entries, header.after) != self.place[1:3]:
            if header.entries > self.place.entries and self._is_unfinished(reader):
                self.unfinished = path
                log.warning("%s follows entries that did not reach the disk: dropped", path)
                return False
            raise self._misfit(path, header)
        if self.last:
            self.before_last.append(self.last.path)
        self.last = reader
        for entry in reader:
            replay.add(entry)
        replay.flush()
        self.place = Place(self.place.sequence + 1, reader.number, reader.after, self.place.state)
        return reader.end == len(reader.data) or self._end_torn(reader)

    def _end_torn(self, reader: Reader) -> bool:
        """Lets the last entry that was written be incomplete: it was interrupted. Else refuses."""
        following = self._found.get(self.place.sequence)
        if following and (header := Reader(following).header):
            self._check_owner(following, header)
        if next(reader.rest(), None) or (following and not self._is_unfinished(Reader(following))):
            raise self._damage(reader, "an entry is damaged")
        lost = len(reader.data) - reader.end
        log.warning("%s ends in a torn entry at byte %d: %d bytes are dropped", reader.path, reader.end, lost)
        if following:
            self.unfinished = following
            log.warning("%s follows entries that did not reach the disk: dropped", following)
        return False

    def _is_unfinished(self, reader: Reader) -> bool:
        """Whether a power failure came before the journal before this one was on its disk; none follows then."""
        header = reader.header
        if header is None:
            return reader.is_blank
        sealed = header.is_base_synced or any(entry.is_seal for entry in reader)
        return not sealed and not next(reader.rest(), None) and not self._has_later(header.sequence)

    def _has_later(self, sequence: int) -> bool:
        return any(number > sequence for number in self._found)

    def _check_owner(self, path: Path, header: Header) -> None:
        domain = self.store.domain
        for key, came, wanted in (
            ("domain", header.domain, domain.name),
            ("spec_hash", header.spec_hash, domain.spec_hash),
        ):
            if came != wanted:
                raise StateError(
                    f"{path} was made for {key} {came}, wanted {wanted}: start the service that wrote it, "
                    "or make the state anew with vigil train --replace-state"
                )
        if header.sequence != self.place.sequence:
            raise Damage(f"{path} is journal-{header.sequence} by its header: give it its name back; {self._remedy()}")
        if header.state != self.place.state:
            raise Damage(f"{path} belongs to another state than {self._snapshot}; {self._remedy()}")

    def _misfit(self, path: Path, header: Header) -> Damage:
        lost = header.entries - self.place.entries
        if self.last is None and not self._snapshot.exists():
            return Damage(f"{path} needs {self._snapshot}, which is not there; {self._remedy()}")
        if lost > 0:
            return Damage(f"{lost:,} entries before {path} are missing; {self._remedy()}")
        return Damage(f"{path} does not follow what is before it: they are of two histories; {self._remedy()}")

    def _header_damage(self, reader: Reader) -> StateError:
        if reader.is_old(self.store.columns):
            return StateError(
                f"{reader.path} was written by an earlier Vigil, whose state is not read: make it anew with "
                "vigil train --replace-state"
            )
        return self._damage(reader, "its header is damaged")

    def _damage(self, reader: Reader, what: str) -> Damage:
        """The refusal of a journal that is damaged after what `reader` has read of it."""
        whole = self._whole_after(reader)
        size = len(reader.data) - reader.end - sum(entry.size for entry in reader.rest())
        readable = max(self.place.entries, reader.number)
        return Damage(
            f"{reader.path}: {what} at byte {reader.end:,}. {readable:,} entries before it can be read; {size:,} bytes "
            f"cannot, and {whole:,} whole entries follow; {self._remedy()}"
        )

    def _whole_after(self, reader: Reader) -> int:
        later = [path for number, path in self._found.items() if number > number_of(reader.path)]
        return sum(1 for each in (reader, *map(Reader, later)) for _ in each.rest())

    def _check_nothing_missing(self, has_snapshot: bool) -> None:
        sequence, dropped, noted = self.place.sequence, self.unfinished, self._noted
        later = [number for number, path in self._found.items() if number >= sequence and path != dropped]
        missing = f"{self._folder / f'journal-{sequence}'} is missing, though journals after it were written"
        if later and not has_snapshot and not sequence:
            missing = f"{self._snapshot} is missing: {self._found[later[0]].name} needs it"
        elif not later and noted is not None and noted >= sequence:
            missing = f"the newest of the files of {self._folder} is missing: journal-{noted}, or a snapshot after it"
        elif not later:
            return
        raise Damage(f"{missing}; {self._remedy()}")

    def _remedy(self) -> str:
        return (
            f"nothing was changed. Put the file back, or restore {self._folder} as a whole from a backup, or run "
            f"vigil features recover {self.store.domain.name}: it keeps all files, writes what can be read into a new "
            "snapshot and says what is lost"
        )


def restore(folder: Path, domain: Domain, before: int | None = None) -> tuple[MemoryStore, Place]:
    """The state that the files of a folder hold, and the place of what comes next; as `Restored`."""
    found = Restored(folder, domain, before)
    return found.store, found.place


def drop_journals(folder: Path, before: int) -> None:
    """Removes journals that the snapshot has made superfluous."""
    for number, path in journals(folder).items():
        if number < before:
            files.remove(path)
