"""The segments of the arena: each holds the records of one entity, sorted by time."""

from __future__ import annotations

import numpy as np

from vigil.features.compiled.layout import (
    B_KEY,
    B_TS,
    H_FREE,
    H_TAIL,
    LABEL_BITS,
    M_CAPACITY,
    M_LENGTH,
    M_NEWEST,
    M_OFFSET,
    M_START,
    RELABEL,
    TAG,
    TS,
)
from vigil.features.compiled.machine import compiled, entry

LEAST = 4  # records of room that a log's segment has


@compiled
def word(arena, i):
    """One word of the arena; unsigned indices spare the test for negative ones, so loops are vectorised."""
    return arena[np.uintp(i)]


@compiled
def search(arena, low, n, ts):
    """First of the `n` records from `low` on later than `ts`; without branches, which would be guessed wrong."""
    while n > 1:
        half = n >> 1
        low += half * (word(arena, low + half - 1) <= ts)
        n -= half
    return low + (n == 1 and word(arena, low) <= ts)


@compiled
def after(arena, low, high, ts):
    """First index in [low, high) whose record is later than `ts`: mostly there is none."""
    if high > low and word(arena, high - 1) <= ts:
        return high
    return search(arena, low, high - low, ts)


@compiled
def record(arena, low, last, stride, ts, key):
    """Where an event's record stands, looking back from `last` through those of its time; -1: nowhere."""
    while last >= low and arena[last] == ts:
        if (arena[last + TAG * stride] ^ key) & ~LABEL_BITS == 0:
            return last
        last -= 1
    return -1


@compiled
def words_of(size):
    """Words of a segment of a size class: 16, 24, 32, 48, 64, 96 and so on."""
    return (2 + (size & 1)) << ((size >> 1) + 3)


@compiled
def size_for(words):
    """The smallest size class of at least so many words."""
    size = 0
    while words_of(size) < words:
        size += 1
    return size


@compiled
def _take(size, arena, head):
    """First word of a segment of a size class: a free one, or the arena's tail; -1 where that has no room."""
    target = head[H_FREE + size]
    if target >= 0:
        head[H_FREE + size] = arena[target]
        return target
    target = head[H_TAIL]
    if target + words_of(size) > arena.shape[0]:
        return -1
    head[H_TAIL] = target + words_of(size)
    return target


@compiled
def _move(meta, row, width, arena, head, target, room):
    """Moves an entity's records to the front of a segment, which may be its own, and frees the one it leaves."""
    offset, capacity = meta[row, M_OFFSET], meta[row, M_CAPACITY]
    start, length = meta[row, M_START], meta[row, M_LENGTH]
    for j in range(width):
        for i in range(length):
            arena[target + j * room + i] = arena[offset + j * capacity + start + i]
    if capacity > 0 and target != offset:
        size = size_for(capacity * width)
        arena[offset] = head[H_FREE + size]
        head[H_FREE + size] = offset
    meta[row, M_OFFSET], meta[row, M_CAPACITY], meta[row, M_START] = target, room, 0


@compiled
def make_room(meta, row, width, arena, head, cutoff):
    """Makes room for one more record of an entity, dropping those at or before `cutoff` where it is full.

    Returns:
        False where the arena must be enlarged first.
    """
    offset, capacity = meta[row, M_OFFSET], meta[row, M_CAPACITY]
    start, length = meta[row, M_START], meta[row, M_LENGTH]
    if start + length < capacity:
        return True
    while length > 0 and arena[offset + start] <= cutoff:
        start += 1
        length -= 1
    meta[row, M_START], meta[row, M_LENGTH] = start, length
    target, room = offset, capacity
    if capacity == 0 or start * 8 < capacity:  # not worth shifting down: move to a larger one
        size = size_for((capacity + 1) * width)
        room = words_of(size) // width
        target = _take(size, arena, head)
        if target < 0:
            return False
    _move(meta, row, width, arena, head, target, room)
    return True


@compiled
def insert(meta, row, width, arena, at, most):
    """Opens a gap for a record at position `at` of its entity's segment, shifting later ones.

    Args:
        most: records that the entity may have; beyond it the oldest goes.

    Returns:
        False where the gap would be before the oldest record of a full history.
    """
    if meta[row, M_LENGTH] >= most:
        if at == meta[row, M_OFFSET] + meta[row, M_START]:
            return False
        meta[row, M_START] += 1
        meta[row, M_LENGTH] -= 1
    end, stride = meta[row, M_OFFSET] + meta[row, M_START] + meta[row, M_LENGTH], meta[row, M_CAPACITY]
    if end > at:
        for j in range(width):
            for later in range(end + j * stride, at + j * stride, -1):
                arena[later] = arena[later - 1]
    meta[row, M_LENGTH] += 1
    return True


@entry
def compact(meta, widths, arena, cutoffs, new_meta, new_arena):
    """Writes every entity's live records without gaps, each into the smallest segment that holds them and one more.

    Args:
        widths: int64 [rows], words of a record.
        cutoffs: int64 [rows], records at or before it are left out.
        new_meta: int64 [rows, 5], written.
        new_arena: int64 [n], written; n must be enough (no more than one and a half times the records' words, and
            three records and 16 words a row).

    Returns:
        words of room used.
    """
    tail = 0
    for row in range(meta.shape[0]):
        offset, capacity, width = meta[row, M_OFFSET], meta[row, M_CAPACITY], widths[row]
        first = offset + meta[row, M_START]
        last = first + meta[row, M_LENGTH]
        first = after(arena, first, last, cutoffs[row])
        size = size_for((last - first + 1) * width)
        room = words_of(size) // width
        new_meta[row, M_OFFSET], new_meta[row, M_CAPACITY] = tail, room
        new_meta[row, M_START], new_meta[row, M_LENGTH] = 0, last - first
        new_meta[row, M_NEWEST] = meta[row, M_NEWEST]
        for j in range(width):
            for i in range(last - first):
                new_arena[tail + j * room + i] = arena[first + j * capacity + i]
        tail += words_of(size)
    return tail


@entry
def run_logs(words, starts, counts, widths, most, rows, first, meta, arena, head):
    """Runs the logs of entities from row `first` on (see `vigil/features/shared/entity_log.py`).

    A record goes where the kernel would put it; one that is there already is passed over, and so is a label without
    its record.

    Args:
        words: int64, all logs one after the other.
        starts, counts: int64 [n], first word and number of entries of each log.
        widths, most: int64 [n], words of a record, and records kept, of each.
        rows: int64 [n], where in `meta` each belongs; a row to be replaced has no segment there.

    Returns:
        n, or the row that needs a larger arena first; that row has changed nothing.
    """
    for n in range(first, rows.shape[0]):
        row, width = rows[n], widths[n]
        needed = meta[row, M_LENGTH] + counts[n]
        if meta[row, M_CAPACITY] == 0 or meta[row, M_START] + needed > meta[row, M_CAPACITY]:
            size = size_for(max(needed + 1, LEAST) * width)
            target = _take(size, arena, head)
            if target < 0:
                return n
            _move(meta, row, width, arena, head, target, words_of(size) // width)
        for i in range(counts[n]):
            base = starts[n] + i * (width + 1)
            ts, tag = words[base + TS], words[base + TAG]
            stride, low = meta[row, M_CAPACITY], meta[row, M_OFFSET] + meta[row, M_START]
            at = after(arena, low, low + meta[row, M_LENGTH], ts)
            found = record(arena, low, at - 1, stride, ts, tag)
            if words[base + width] & 1 == RELABEL:
                if found >= 0:
                    arena[found + TAG * stride] = tag
            elif found < 0 and insert(meta, row, width, arena, at, most[n]):
                # The gap is at `at`, wherever the oldest record went.
                for j in range(width):
                    arena[at + j * stride] = words[base + j]
                meta[row, M_NEWEST] = max(meta[row, M_NEWEST], ts)
    return rows.shape[0]


@entry
def find_records(batch, first, meta, arena, places):
    """Writes where each entity holds each event of a batch: its record's first word in the arena, or -1.

    Args:
        batch: int64 [n, columns], as the kernel takes it.
        first: the column of the first entity's row.
        places: int64 [n, E], written.
    """
    for i in range(batch.shape[0]):
        ts, key = batch[i, B_TS], batch[i, B_KEY]
        for entity in range(places.shape[1]):
            row = batch[i, first + entity]
            low = meta[row, M_OFFSET] + meta[row, M_START]
            at = after(arena, low, low + meta[row, M_LENGTH], ts)
            places[i, entity] = record(arena, low, at - 1, meta[row, M_CAPACITY], ts, key)


@entry
def count_live(rows, keep_ms, meta, arena, counts):
    """Writes how many records of each row its windows can still see: those after its newest minus `keep_ms`."""
    for n in range(rows.shape[0]):
        row = rows[n]
        first = meta[row, M_OFFSET] + meta[row, M_START]
        last = first + meta[row, M_LENGTH]
        counts[n] = last - after(arena, first, last, meta[row, M_NEWEST] - keep_ms)
