"""A snapshot: the whole state in one file, and from which journal on it needs those beside it.

b"VIGILST3" | bytes of the header u64 | the header, msgpack | the arrays, one after the other | checksum 8 bytes

The last digit of the first word counts the layouts.
"""

from __future__ import annotations

import math
import secrets
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64

from vigil.errors import StateError
from vigil.features.compiled import checks
from vigil.features.memory import files
from vigil.features.memory.row_index import RowIndex
from vigil.features.memory.store import MemoryStore

_MAGIC = b"VIGILST3"
_SIZE = struct.Struct("<Q")
_FRONT = len(_MAGIC) + _SIZE.size
_DIGEST = 8


class Damage(StateError):
    """Files that hold less than they should, in a way that no interrupted write explains."""


class Place(NamedTuple):
    """Where in the history of a state one stands.

    Attributes:
        sequence: the number of the next journal.
        entries: how many entries there were before it.
        after: the checksum of the last one.
        state: the seed of the state's event keys, a random number that all of its files share.
    """

    sequence: int
    entries: int
    after: int
    state: int

    @classmethod
    def fresh(cls, state: int, sequence: int = 0) -> Place:
        """The beginning of a state that no journal of another one can follow."""
        return cls(sequence, 0, secrets.randbits(63), state)


class _Header(msgspec.Struct, kw_only=True):
    domain: str
    spec_hash: str
    sequence: int
    marks: dict[str, int] = {}
    rows: list[list[tuple[str, int]]]
    arrays: dict[str, tuple[str, list[int]]]
    entries: int = 0
    after: int = 0
    state: int = 0


def write_snapshot(store: MemoryStore, folder: Path, place: Place | None = None) -> Path:
    """Writes the whole state of `store`, forced to disk, in place of an earlier snapshot.

    Args:
        place: of the first journal whose entries the snapshot does not hold; None: it begins a state.

    Raises:
        OSError: where it cannot be written; the earlier one stays.
    """
    files.make_folder(folder)
    parts = store.compacted()
    place = place or Place.fresh(store.seed)
    header = _Header(
        domain=store.domain.name,
        spec_hash=store.domain.spec_hash,
        marks=store.marks,
        rows=[list(rows.items()) for rows in store.rows],
        arrays={name: (array.dtype.str, list(array.shape)) for name, array in parts.items()},
        **place._asdict(),
    )
    encoded = msgspec.msgpack.encode(header)
    path, made = folder / "snapshot", folder / "snapshot.new"
    digest, at = xxh3_64(), 0
    try:
        descriptor = files.create(made)
        try:
            front = _MAGIC + _SIZE.pack(len(encoded)) + encoded
            for chunk in (memoryview(front), *map(_bytes_of, parts.values())):
                digest.update(chunk)
                files.write(descriptor, chunk, at)
                at += len(chunk)
            files.write(descriptor, digest.digest(), at)
            files.sync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(made, path)
    except OSError:
        with suppress(OSError):  # a full disk needs its room
            files.remove(made)
        raise
    files.sync_folder(folder)
    return path


def read_snapshot(store: MemoryStore, path: Path) -> Place:
    """Fills a fresh `store` from a snapshot.

    Returns:
        the place of the first journal to apply on top.

    Raises:
        Damage: where the file is damaged.
        StateError: where it is of another layout, domain or feature spec.
    """
    data = files.map_file(path)
    if data[:7] == _MAGIC[:7] and data[:8] != _MAGIC:
        came, wanted = bytes(data[7:8]).decode("latin-1"), _MAGIC[7:].decode()
        raise StateError(f"{path} has layout {came}, wanted {wanted}: make it anew with vigil train")
    whole = len(data) >= _FRONT + _DIGEST and xxh3_64(data[:-_DIGEST]).digest() == data[-_DIGEST:]
    if data[:8] != _MAGIC or not whole:
        raise Damage(f"{path} is damaged (its checksum does not match)")
    header, arrays = _parse(data, path)
    for key, came, wanted in (
        ("domain", header.domain, store.domain.name),
        ("spec_hash", header.spec_hash, store.domain.spec_hash),
    ):
        if came != wanted:
            raise StateError(f"{path} was made for {key} {came}, wanted {wanted}: make it anew with vigil train")
    state = store.state
    owners, fault = _owners(header.rows, state.entities)
    fault = fault or checks.find_state_fault(
        arrays, owners, state.program.widths, len(store.domain.numbers), len(store.domain.features)
    )
    if fault or min(header.sequence, header.entries, header.after) < 0:
        raise Damage(f"{path} is damaged ({fault or 'a negative number'})")
    store.marks = header.marks
    store.adopt(arrays, [RowIndex(pairs) for pairs in header.rows])
    return Place(header.sequence, header.entries, header.after, header.state)


def _parse(data: memoryview, path: Path) -> tuple[_Header, dict[str, npt.NDArray[Any]]]:
    at = _FRONT + _SIZE.unpack_from(data, len(_MAGIC))[0]
    try:
        header = msgspec.msgpack.decode(data[_FRONT:at], type=_Header)
        arrays = {}
        for name, (kind, shape) in header.arrays.items():
            if min(shape, default=0) < 0:
                raise ValueError(f"an array of shape {shape}")
            arrays[name] = np.frombuffer(data[:-_DIGEST], kind, math.prod(shape), at).reshape(shape)
            at += arrays[name].nbytes
    except (msgspec.MsgspecError, ValueError, TypeError) as failure:
        raise Damage(f"{path} is damaged ({failure})") from None
    return header, arrays


def _owners(rows: list[list[tuple[str, int]]], entities: int) -> tuple[npt.NDArray[np.uint8], str]:
    """Which entity each row is, uint8 [rows]; and what is wrong with them, "" where nothing is."""
    count = sum(map(len, rows))
    owners = np.full(count, entities, np.uint8)
    if len(rows) != entities:
        return owners, f"{len(rows)} entities, wanted {entities}"
    for entity, pairs in enumerate(rows):
        held = np.fromiter((row for _, row in pairs), np.int64, len(pairs))
        if held.size and (held.min() < 0 or held.max() >= count):
            return owners, "an entity in a row that is not there"
        owners[held] = entity
    if (owners == entities).any() or any(len(dict(pairs)) < len(pairs) for pairs in rows):
        return owners, "two entities in one row"
    return owners, ""


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
