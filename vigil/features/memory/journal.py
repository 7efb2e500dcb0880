"""One journal file: a header that says what it follows, then numbered entries, each with a checksum.

    b"VIGILJR1" | bytes of the header u32 | the header, JSON | checksum u64
    mark 4 bytes | checksum u64 | bytes of rows u32, of keys u32, number u64, first new row u64 | keys, JSON | rows

An entry's checksum covers all that follows it in the entry. It starts from the checksum of the header, which holds a
random number. So an entry of another file, or one that was left on the disk, is none here. Numbers count all entries
of a state, so that one that is missing, repeated or at another place is seen. An entry without rows and keys says
that the journal before this one is on its disk.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
from xxhash import xxh3_64_intdigest

from vigil.features.memory import files

MAGIC = b"VIGILJR1"
_FIRST = struct.Struct("<8sI")
_CHECKSUM = struct.Struct("<Q")
_MARK = b"\xf5VE\n"
_FRONT = struct.Struct("<4sQ")
_COUNTS = struct.Struct("<IIQQ")
_ENTRY = struct.Struct("<4sQIIQQ")
_COVERED = _FRONT.size  # where that begins, in an entry, which its checksum covers
_LONGEST_HEADER = 4096
# The entry of journals before they had headers: rows, bytes of keys, checksum of both.
_OLD_ENTRY = struct.Struct("<IIQ")
_BLOCK = 1 << 20


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal is, and what it follows.

    Attributes:
        domain, spec_hash: whose state it is.
        state: a random number that all files of one state share.
        sequence: the N of `journal-N`.
        entries: the number of its first entry.
        after: the checksum of the entry before that.
        is_base_synced: whether the journal before it was on its disk when this one was made.
        nonce: random, so that no two journals have the same checksums.
    """

    domain: str
    spec_hash: str
    state: int
    sequence: int
    entries: int
    after: int
    is_base_synced: bool
    nonce: int = msgspec.field(default_factory=lambda: secrets.randbits(63))


class Head(msgspec.Struct):
    """What an entry holds beside its rows, where it holds marks; without them, the list of keys alone."""

    keys: list[tuple[int, str]]
    marks: dict[str, int]


class Entry(NamedTuple):
    """An entry that is whole.

    Attributes:
        number: counts the entries of a state.
        first: the row of its first new key; of the next one, where it has none.
        keys: JSON.
        rows: int64 [n, columns].
        checksum: of all of it.
    """

    number: int
    first: int
    keys: memoryview
    rows: memoryview
    checksum: int

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return _ENTRY.size + self.keys.nbytes + self.rows.nbytes

    @property
    def is_seal(self) -> bool:
        """Whether it says that the journal before is on its disk."""
        return not self.rows.nbytes and not self.keys.nbytes


_head: msgspec.json.Decoder[Head | list[tuple[int, str]]] = msgspec.json.Decoder(Head | list[tuple[int, str]])
_header: msgspec.json.Decoder[Header] = msgspec.json.Decoder(Header)


def decode(keys: memoryview) -> Head:
    """New keys and marks of an entry.

    Raises:
        msgspec.MsgspecError: where they are none.
    """
    found = _head.decode(keys) if keys.nbytes else []
    return found if isinstance(found, Head) else Head(found, {})


class Journal:
    """A journal that is written.

    Args:
        path: of the file.
        descriptor: of it, to write.
        size: bytes that are whole.
        seed: checksum of its header.
        number: of its next entry.
        after: checksum of the last one.

    `create` makes a new one, `Reader.resume` goes on with one.
    """

    def __init__(self, path: Path, descriptor: int, size: int, seed: int, number: int, after: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.size, self._seed, self.number, self.after = size, seed, number, after
        self._synced = 0
        self._wanted = 0

    @classmethod
    def create(cls, path: Path, header: Header) -> Journal:
        """Writes the header; nothing is forced to disk.

        Raises:
            OSError: where it cannot be written; a file may be there, which the next try replaces.
        """
        encoded = msgspec.json.encode(header)
        data = _FIRST.pack(MAGIC, len(encoded)) + encoded
        seed = xxh3_64_intdigest(data)
        data += _CHECKSUM.pack(seed)
        journal = cls(path, files.create(path), len(data), seed, header.entries, header.after)
        try:
            files.write(journal._descriptor, data, 0)
        except OSError:
            journal.close()
            raise
        return journal

    def append(self, rows: bytes, keys: bytes, first: int) -> None:
        """Writes an entry after the last one that is whole, over what may be left of one that was not.

        Args:
            rows: of the batch, int64 [n, columns].
            keys: JSON of new keys and marks; empty for none.
            first: the row of the first new key.

        Raises:
            OSError: where it cannot be written; then it is none of this journal's.
        """
        covered = _COUNTS.pack(len(rows), len(keys), self.number, first) + keys + rows
        checksum = xxh3_64_intdigest(covered, self._seed)
        data = _FRONT.pack(_MARK, checksum) + covered
        self._wanted = len(data)
        files.write(self._descriptor, data, self.size)
        self.size += len(data)
        self.number += 1
        self.after = checksum

    def seal(self) -> None:
        """Says that the journal before this one is on its disk. Raises OSError as `append`."""
        self.append(b"", b"", 0)

    def sync(self) -> None:
        """Returns once all that has been appended before the call is on the disk."""
        size = self.size
        files.sync(self._descriptor)
        self._synced = size

    def mend(self) -> None:
        """Brings the file, after a failed write or sync, to the disk as it should be, with room for the failed entry.

        What the disk may have dropped is written again. Nobody appends meanwhile.

        Raises:
            OSError: where the disk does not take it yet; call it again later.
        """
        files.truncate(self._descriptor, self.size)
        check = Reader(self.path)
        if not check.ends_at(self.size, self.after):
            raise OSError(5, "it does not hold what was written to it")
        for at in range(self._synced, self.size, _BLOCK):
            files.write(self._descriptor, bytes(check.data[at : min(at + _BLOCK, self.size)]), at)
        zeros = bytes(_BLOCK)
        for at in range(0, max(self._wanted, 1), _BLOCK):  # room is not known before it is used
            files.write(self._descriptor, zeros, self.size + at)
        files.sync(self._descriptor)
        files.truncate(self._descriptor, self.size)
        self.sync()

    def close(self) -> None:
        """Gives the descriptor free."""
        files.close(self._descriptor)


class Reader:
    """A journal that is read, entry by entry from its front: iterate over it. It stops at the first that is not whole.

    Args:
        path: of the file.

    Attributes:
        data: what the file holds.
        header: None where it is damaged.
        start: the byte after it; 0 where it is damaged.
        end: the byte after the last entry that was read.
        number: of the next entry.
        after: checksum of the last one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = files.map_file(path)
        self.header, self.start, self._seed = self._read_header()
        self.end = self.start
        self.number = self.header.entries if self.header else 0
        self.after = self.header.after if self.header else 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._entry(self.end, self._seed)) and entry.number == self.number:
            self.end += entry.size
            self.number += 1
            self.after = entry.checksum
            yield entry

    def resume(self) -> Journal:
        """Goes on with the journal after the last entry that was read; what follows is cut off. All is on disk then."""
        journal = Journal(self.path, files.open_file(self.path), self.end, self._seed, self.number, self.after)
        try:
            if self.end < len(self.data):
                files.truncate(journal._descriptor, self.end)
            journal.sync()
        except OSError:
            journal.close()
            raise
        return journal

    def ends_at(self, size: int, after: int) -> bool:
        """Whether the file holds whole entries up to that byte, with that checksum last."""
        for _ in self:
            if self.end >= size:
                break
        return (self.end, self.after) == (size, after)

    def rest(self) -> Iterator[Entry]:
        """Whole entries after `end`, wherever they begin, also where the header is damaged."""
        seeds, at = {self._seed} if self.header else self._seeds(), self.end
        while (at := self._find(at)) >= 0:
            entry = next((entry for seed in seeds if (entry := self._entry(at, seed))), None)
            if entry:
                yield entry
            at += entry.size if entry else 1

    @property
    def is_blank(self) -> bool:
        """Whether it is no more than the beginning of a file: its making was interrupted."""
        begun = MAGIC.startswith(bytes(self.data[: len(MAGIC)]).rstrip(b"\0"))
        return not self.header and begun and self._find(0) < 0 and not bytes(self.data[_LONGEST_HEADER:]).strip(b"\0")

    def is_old(self, columns: int) -> bool:
        """Whether it is a journal, of rows with so many columns, from before they had headers."""
        if len(self.data) < _OLD_ENTRY.size or self.data[: len(MAGIC)] == MAGIC:
            return False
        rows, keys, checksum = _OLD_ENTRY.unpack_from(self.data)
        end = _OLD_ENTRY.size + keys + rows * columns * 8
        return end <= len(self.data) and xxh3_64_intdigest(self.data[_OLD_ENTRY.size : end]) == int(checksum)

    def _read_header(self) -> tuple[Header | None, int, int]:
        data = self.data
        if len(data) < _FIRST.size:
            return None, 0, 0
        magic, length = _FIRST.unpack_from(data)
        end = _FIRST.size + length
        if magic != MAGIC or length > _LONGEST_HEADER or end + _CHECKSUM.size > len(data):
            return None, 0, 0
        (checksum,) = _CHECKSUM.unpack_from(data, end)
        if xxh3_64_intdigest(data[:end]) != checksum:
            return None, 0, 0
        try:
            return _header.decode(data[_FIRST.size : end]), end + _CHECKSUM.size, checksum
        except msgspec.MsgspecError:
            return None, 0, 0

    def _entry(self, at: int, seed: int) -> Entry | None:
        data = self.data
        if at + _ENTRY.size > len(data):
            return None
        mark, checksum, rows, keys, number, first = _ENTRY.unpack_from(data, at)
        middle = at + _ENTRY.size + keys
        end = middle + rows
        if mark != _MARK or end > len(data) or xxh3_64_intdigest(data[at + _COVERED : end], seed) != checksum:
            return None
        return Entry(number, first, data[at + _ENTRY.size : middle], data[middle:end], checksum)

    def _find(self, at: int) -> int:
        return cast("bytes", self.data.obj).find(_MARK, at)  # a map of a file has it, too

    def _seeds(self) -> set[int]:
        """What entries' checksums may start from where the header is damaged: one of the two is whole."""
        at = self._find(0) - _CHECKSUM.size
        return {_CHECKSUM.unpack_from(self.data, at)[0], xxh3_64_intdigest(self.data[:at])} if at >= 0 else set()


def encode_keys(keys: Sequence[tuple[int, str]], marks: dict[str, int]) -> bytes:
    """New keys and marks as an entry holds them."""
    if marks:
        return msgspec.json.encode(Head(list(keys), marks))
    return msgspec.json.encode(keys)


def number_of(path: Path) -> int:
    """The N of a file `journal-N`."""
    return int(path.name.removeprefix("journal-"))


def journals(folder: Path) -> dict[int, Path]:
    """The journals of a folder by number, in order."""
    found = [path for path in folder.glob("journal-*") if path.name.removeprefix("journal-").isdecimal()]
    return {number_of(path): path for path in sorted(found, key=number_of) if path.name == f"journal-{number_of(path)}"}
