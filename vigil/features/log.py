"""An entity's log: how its records lie outside this process, and how the kernel's state is made of it.

A log is a row of entries in order of arrival, each a record of the kernel and a mark in int64 words: `(ts_ms, tag,
numbers..., carried..., mark)`. The mark is `token << 1 | what`: `what` is RECORD or RELABEL (the record of this time
and tag has the label in this tag), and the token is random for each write. So a log's last eight bytes are its
version: no two contents of a log share it.

Reading a log is running it: records go where the kernel would put them (by time, ties in order of arrival, the
newest `most_records`), a record that is there already is passed over, and so is a label without its record.

Compiled here and not in `kernel.py` as it calls none of it: numba's cache on disk looks at one file at a time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vigil.features.machine import compiled
from vigil.features.program import TAG, TS

Words = npt.NDArray[np.int64]
RECORD, RELABEL = 0, 1
# Columns of an entity's row and of a batch row, and a tag's bits for the label, as in `kernel.py`.
_OFFSET, _CAPACITY, _START, _LENGTH, _NEWEST = range(5)
_B_KEY, _B_TS = 0, 1
_LABEL_BITS = 3
_LEAST = 4  # records of room of the smallest segment


@compiled
def _place(meta, row, arena, ts, key):
    """Where a record of that time and key is (found), or would be put (not)."""
    first, stride = meta[row, _OFFSET] + meta[row, _START], meta[row, _CAPACITY]
    low, end = first, first + meta[row, _LENGTH]
    if low == end or arena[end - 1] < ts:
        return end, False
    while low < end:  # the first that is later
        middle = (low + end) >> 1
        if arena[middle] <= ts:
            low = middle + 1
        else:
            end = middle
    at = low - 1
    while at >= first and arena[at] == ts:
        if (arena[at + TAG * stride] ^ key) & ~_LABEL_BITS == 0:
            return at, True
        at -= 1
    return low, False


@compiled
def _segment(count, width):
    """Words of a segment with room for one record more than `count`: of the kernel's size classes."""
    size, words = 0, 16
    while words < max(count + 1, _LEAST) * width:
        size += 1
        words = (2 + (size & 1)) << ((size >> 1) + 3)
    return words


@compiled
def run(words, starts, counts, widths, most, rows, meta, arena, tail):
    """Runs logs into the kernel's state, in place of what is there or, where only a log's end is given, after it.

    Args:
        words: int64, all logs one after the other.
        starts, counts: int64 [n], first word and number of entries of each log.
        widths, most: int64 [n], words of a record, and records kept, of each.
        rows: int64 [n], where in `meta` each belongs; what is to be replaced has no segment there.
        meta, arena: the kernel's state, with room (see :func:`room`).
        tail: first free word of the arena.

    Returns:
        the first free word after it.
    """
    for n in range(rows.shape[0]):
        row, width = rows[n], widths[n]
        tail += _make_room(row, counts[n], width, meta, arena, tail)
        stride = meta[row, _CAPACITY]
        for i in range(counts[n]):
            base = starts[n] + i * (width + 1)
            ts, tag = words[base + TS], words[base + TAG]
            at, found = _place(meta, row, arena, ts, tag)
            if words[base + width] & 1 == RELABEL:
                if found:
                    arena[at + TAG * stride] = tag
                continue
            if found:
                continue
            if meta[row, _LENGTH] >= most[n]:
                if at == meta[row, _OFFSET] + meta[row, _START]:
                    continue
                meta[row, _START] += 1
                meta[row, _LENGTH] -= 1
            end = meta[row, _OFFSET] + meta[row, _START] + meta[row, _LENGTH]
            for j in range(width):
                for later in range(end + j * stride, at + j * stride, -1):
                    arena[later] = arena[later - 1]
                arena[at + j * stride] = words[base + j]
            meta[row, _LENGTH] += 1
            meta[row, _NEWEST] = max(meta[row, _NEWEST], ts)
    return tail


@compiled
def _make_room(row, count, width, meta, arena, tail):
    """Gives a row a segment with room for `count` records more: the one it has, or one at `tail`. Words taken."""
    offset, capacity, start, length = meta[row, _OFFSET], meta[row, _CAPACITY], meta[row, _START], meta[row, _LENGTH]
    if capacity and start + length + count <= capacity:
        return 0
    segment = _segment(length + count, width)
    stride = segment // width
    for j in range(width):
        for i in range(length):
            arena[tail + j * stride + i] = arena[offset + start + j * capacity + i]
    meta[row, _OFFSET], meta[row, _CAPACITY], meta[row, _START] = tail, stride, 0
    return segment


@compiled
def room(rows, counts, widths, meta):
    """Words of the arena that :func:`run` takes at most for so many entries."""
    total = 0
    for n in range(counts.shape[0]):
        total += _segment(meta[rows[n], _LENGTH] + counts[n], widths[n])
    return total


@compiled
def find(batch, first, meta, arena, places):
    """Writes where each entity holds each event of a batch: its record's first word in the arena, or -1.

    Args:
        batch: int64 [n, columns], as the kernel takes it.
        first: the column of the first entity's row.
        places: int64 [n, E], written.
    """
    for i in range(batch.shape[0]):
        for entity in range(places.shape[1]):
            at, found = _place(meta, batch[i, first + entity], arena, batch[i, _B_TS], batch[i, _B_KEY])
            places[i, entity] = at if found else -1


@compiled
def live(rows, keep_ms, meta, arena, counts):
    """Writes how many records of each entity its windows can still see."""
    for n in range(rows.shape[0]):
        row = rows[n]
        first = meta[row, _OFFSET] + meta[row, _START]
        last = first + meta[row, _LENGTH]
        cutoff = meta[row, _NEWEST] - keep_ms
        low, end = first, last
        while low < end:
            middle = (low + end) >> 1
            if arena[middle] <= cutoff:
                low = middle + 1
            else:
                end = middle
        counts[n] = last - low


def entries(arena: Words, places: Words, strides: Words | int, width: int, token: int, what: Words | int) -> Words:
    """Entries of a log, int64 [n, width + 1], for records at `places` of the arena, all written with `token`."""
    columns = np.asarray(strides).reshape(-1, 1) * np.arange(width)
    found = np.empty((len(places), width + 1), np.int64)
    found[:, :width] = arena[places.reshape(-1, 1) + columns]
    found[:, width] = token << 1 | what
    return found


def relabelling(ts_ms: int, key: int, label: int, width: int, token: int) -> bytes:
    """The entry that gives the record of an event a label."""
    entry = np.zeros(width + 1, np.int64)
    entry[TS], entry[TAG], entry[width] = ts_ms, tag(key, label), token << 1 | RELABEL
    return entry.tobytes()


def tag(key: int, label: int) -> int:
    """An event's key and label as a record holds them."""
    return (key & ~_LABEL_BITS) | (label + 1)


def label_of(found: int) -> int:
    """The label in a tag."""
    return (found & _LABEL_BITS) - 1
