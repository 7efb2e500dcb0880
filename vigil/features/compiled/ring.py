"""The ring of remembered events, and the hash table that finds them by key."""

from __future__ import annotations

import numpy as np

from vigil.features.compiled.layout import (
    DONE,
    FEEDBACK_MS,
    GROW_FEATURES,
    GROW_RING,
    H_FEATURES_HEAD,
    H_NEWEST,
    H_RING_HEAD,
    H_RING_TAIL,
    MOST_REMEMBERED,
    MOST_REPEATS,
    R_KEY,
    R_MOMENT,
    REPEAT_MS,
)
from vigil.features.compiled.machine import compiled, entry


@compiled
def home(key, mask):
    """Where a key belongs in the hash table (murmur3's finaliser)."""
    k = np.uint64(key)
    k ^= k >> np.uint64(33)
    k *= np.uint64(0xFF51AFD7ED558CCD)
    k ^= k >> np.uint64(33)
    k *= np.uint64(0xC4CEB9FE1A85EC53)
    k ^= k >> np.uint64(33)
    return np.int64(k & np.uint64(mask))


@compiled
def find(table, ring, key):
    """Index in the table of a known key; `-1 - index` of the free place where it would go."""
    mask = table.shape[0] - 1
    at = home(key, mask)
    while table[at] >= 0:
        if ring[table[at], R_KEY] == key:
            return at
        at = (at + 1) & mask
    return -1 - at


@entry
def locate(table, ring, key):
    """The slot of a known key; -1 where it is not known."""
    at = find(table, ring, key)
    return np.int64(table[at]) if at >= 0 else np.int64(-1)


@compiled
def forget(table, ring, key):
    """Removes a key from the table (linear probing, shifting back what follows)."""
    hole = find(table, ring, key)
    if hole < 0:
        return
    mask = table.shape[0] - 1
    at = hole
    while True:
        at = (at + 1) & mask
        if table[at] < 0:
            break
        if ((at - home(ring[table[at], R_KEY], mask)) & mask) >= ((at - hole) & mask):
            table[hole] = table[at]
            hole = at
    table[hole] = -1


@entry
def index_ring(table, ring, head, tail):
    """Fills an empty hash table with the ring's entries `head` to `tail`."""
    mask = table.shape[0] - 1
    for sequence in range(head, tail):
        slot = sequence & (ring.shape[0] - 1)
        at = home(ring[slot, R_KEY], mask)
        while table[at] >= 0:
            at = (at + 1) & mask
        table[at] = slot


@compiled
def make_room(limits, table, ring, features, head):
    """Makes room for one more remembered event. Only a full ring forgets: events out of their time, or too many.

    Returns:
        DONE, or which array must be enlarged first.
    """
    if head[H_RING_TAIL] - head[H_RING_HEAD] >= ring.shape[0]:
        slot = head[H_RING_HEAD] & (ring.shape[0] - 1)
        if ring[slot, R_MOMENT] >> 3 > head[H_NEWEST] - limits[FEEDBACK_MS] and ring.shape[0] < limits[MOST_REMEMBERED]:
            return GROW_RING
        forget(table, ring, ring[slot, R_KEY])
        head[H_RING_HEAD] += 1
        head[H_FEATURES_HEAD] = max(head[H_FEATURES_HEAD], head[H_RING_HEAD])
    if head[H_RING_TAIL] - head[H_FEATURES_HEAD] >= features.shape[0]:
        slot = head[H_FEATURES_HEAD] & (ring.shape[0] - 1)
        if ring[slot, R_MOMENT] >> 3 > head[H_NEWEST] - limits[REPEAT_MS] and features.shape[0] < limits[MOST_REPEATS]:
            return GROW_FEATURES
        head[H_FEATURES_HEAD] += 1
    return DONE


@compiled
def append(table, ring, head, at):
    """The slot of a new entry, whose free place in the table is `at`, as `find` gives it."""
    slot = head[H_RING_TAIL] & (ring.shape[0] - 1)
    table[-1 - at] = slot
    head[H_RING_TAIL] += 1
    return slot


@compiled
def has_features(ring, head, slot):
    """Whether the ring's slot is young enough to have a place for its features."""
    tail = head[H_RING_TAIL]
    sequence = tail - 1 - ((tail - 1 - slot) & (ring.shape[0] - 1))
    return sequence >= head[H_FEATURES_HEAD]
