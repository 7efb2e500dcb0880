"""The one kernel that turns events into features, live and over history alike.

State is plain memory. Every entity owns one contiguous segment of records in an arena, sorted by
time (ties in order of arrival); a record is `(ts_ms, event key, label, numbers..., carried...)` in
int64 words, and the arena holds each of these as a row of its own, so that a window of one number is
contiguous. A ring with a hash table over it remembers events by key: their features for repeats,
and where they went, so that a label finds them. All windows are computed from the records
themselves, newest and oldest by binary search, so nothing drifts and a late event sees exactly
what it would have seen in time.

All that is compiled stands in this one file, because numba's cache on disk looks at no other: whoever
changes the codes in `windows.py` or the columns in `program.py` must save this file as well.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from vigil.domains.windows import Op
from vigil.features.program import (
    CARRIED,
    COLUMN,
    CURRENT,
    EMPTY,
    ENTITIES,
    EXTRA,
    F_DELAY_MS,
    F_ENTITY,
    F_WINDOW_MS,
    FEEDBACK_MS,
    FRAME,
    GRACE_MS,
    KEY,
    LABEL,
    LEFT,
    MOST_REMEMBERED,
    MOST_REPEATS,
    NUMBERS,
    OP,
    PER_ENTITY,
    PER_UNIT,
    REPEAT_MS,
    RIGHT,
    TIMES,
    TS,
    VALUES,
)

# What became of an event (0-4) or a label (5-7).
NEW, LATE, TOO_LATE, REPEAT, RECOMPUTED, LABELLED, LABEL_KNOWN, LABEL_WAITS = range(8)
# Columns of a batch row before its numbers, then the rows of its entities.
B_KEY, B_TS, B_IS_LABEL, B_LABEL, B_VALUES = range(5)
# Columns of an entity's row.
M_OFFSET, M_CAPACITY, M_START, M_LENGTH, M_NEWEST = range(5)
# Columns of the ring before the rows of the event's entities.
R_KEY, R_TS, R_LABEL, R_WAITS, R_ROWS = range(5)
# Entries of the head; free segments of 2**k records are chained from H_FREE + k.
H_TAIL, H_RING_HEAD, H_RING_TAIL, H_FEATURES_HEAD, H_NEWEST, H_FREE, H_SIZE = 0, 1, 2, 3, 4, 8, 56
# What the caller must enlarge before going on.
DONE, GROW_ARENA, GROW_RING, GROW_FEATURES = range(4)

DAY = 86_400_000
MILLIONTHS = 1_000_000.0

_compiled = njit(cache=True, nogil=True, error_model="numpy")

_VALUE, _WEEKEND, _NIGHT = int(Op.VALUE), int(Op.WEEKEND), int(Op.NIGHT)
_RATIO, _DIFFERENCE = int(Op.RATIO), int(Op.DIFFERENCE)
_COUNT, _SUM, _MEAN, _STD, _MAX, _MIN = (int(o) for o in (Op.COUNT, Op.SUM, Op.MEAN, Op.STD, Op.MAX, Op.MIN))
_ZSCORE, _TRIMMED_MEAN = int(Op.ZSCORE), int(Op.TRIMMED_MEAN)
_COUNT_ABOVE, _AGE_FIRST_ABOVE = int(Op.COUNT_ABOVE), int(Op.AGE_FIRST_ABOVE)
_LARGEST_RATIO, _LARGEST_EXCESS = int(Op.LARGEST_RATIO), int(Op.LARGEST_EXCESS)
_LABEL_COUNT, _LABEL_RATE, _LAST_LABEL = int(Op.LABEL_COUNT), int(Op.LABEL_RATE), int(Op.LAST_LABEL)
_AGE_OF_LABEL, _STREAK = int(Op.AGE_OF_LABEL), int(Op.STREAK)
_AGE_OF_STREAK, _LEAST_OF_STREAK = int(Op.AGE_OF_STREAK), int(Op.LEAST_OF_STREAK)
_SINCE_LAST, _LAST, _SLOPE = int(Op.SINCE_LAST), int(Op.LAST), int(Op.SLOPE)


@_compiled
def _after(arena, low, high, ts):
    """First index in [low, high) whose record is later than `ts`; without branches, which would be guessed wrong."""
    if high > low and arena[TS, high - 1] <= ts:
        return high
    n = high - low
    while n > 1:
        half = n >> 1
        low += half * (arena[np.uintp(TS), np.uintp(low + half - 1)] <= ts)
        n -= half
    return low + (n == 1 and arena[TS, low] <= ts)


@_compiled
def _home(key, mask):
    """Where a key belongs in the hash table (murmur3's finaliser)."""
    k = np.uint64(key)
    k ^= k >> np.uint64(33)
    k *= np.uint64(0xFF51AFD7ED558CCD)
    k ^= k >> np.uint64(33)
    k *= np.uint64(0xC4CEB9FE1A85EC53)
    k ^= k >> np.uint64(33)
    return np.int64(k & np.uint64(mask))


@_compiled
def _find(table, ring, key):
    """Index in the table of a known key; `-1 - index` of the free place where it would go."""
    mask = table.shape[0] - 1
    at = _home(key, mask)
    while table[at] >= 0:
        if ring[table[at], R_KEY] == key:
            return at
        at = (at + 1) & mask
    return -1 - at


@_compiled
def _forget(table, ring, key):
    """Removes a key from the table (linear probing, shifting back what follows)."""
    hole = _find(table, ring, key)
    if hole < 0:
        return
    mask = table.shape[0] - 1
    at = hole
    while True:
        at = (at + 1) & mask
        if table[at] < 0:
            break
        if ((at - _home(ring[table[at], R_KEY], mask)) & mask) >= ((at - hole) & mask):
            table[hole] = table[at]
            hole = at
    table[hole] = -1


@_compiled
def index_ring(table, ring, head, tail):
    """Fills an empty hash table with the ring's entries `head` to `tail`."""
    mask = table.shape[0] - 1
    for sequence in range(head, tail):
        slot = sequence & (ring.shape[0] - 1)
        at = _home(ring[slot, R_KEY], mask)
        while table[at] >= 0:
            at = (at + 1) & mask
        table[at] = slot


@_compiled
def _remember_room(limits, table, ring, features, head):
    """Makes room for one more remembered event. Only a full ring forgets: what is out of its time, or too much."""
    if head[H_RING_TAIL] - head[H_RING_HEAD] >= ring.shape[0]:
        slot = head[H_RING_HEAD] & (ring.shape[0] - 1)
        if ring[slot, R_TS] > head[H_NEWEST] - limits[FEEDBACK_MS] and ring.shape[0] < limits[MOST_REMEMBERED]:
            return GROW_RING
        _forget(table, ring, ring[slot, R_KEY])
        head[H_RING_HEAD] += 1
        head[H_FEATURES_HEAD] = max(head[H_FEATURES_HEAD], head[H_RING_HEAD])
    if head[H_RING_TAIL] - head[H_FEATURES_HEAD] >= features.shape[0]:
        slot = head[H_FEATURES_HEAD] & (ring.shape[0] - 1)
        if ring[slot, R_TS] > head[H_NEWEST] - limits[REPEAT_MS] and features.shape[0] < limits[MOST_REPEATS]:
            return GROW_FEATURES
        head[H_FEATURES_HEAD] += 1
    return DONE


@_compiled
def _room(meta, row, arena, head, cutoff):
    """Makes room for one more record of an entity, dropping those at or before `cutoff` where it is full."""
    offset, capacity = meta[row, M_OFFSET], meta[row, M_CAPACITY]
    start, length = meta[row, M_START], meta[row, M_LENGTH]
    if start + length < capacity:
        return True
    while length > 0 and arena[TS, offset + start] <= cutoff:
        start += 1
        length -= 1
    meta[row, M_START], meta[row, M_LENGTH] = start, length
    target = offset
    if capacity == 0 or start * 4 < capacity:  # not worth shifting down: move to twice the room
        size = 2
        while (1 << size) <= capacity:
            size += 1
        target = head[H_FREE + size]
        if target >= 0:
            head[H_FREE + size] = arena[0, target]
        else:
            target = head[H_TAIL]
            if target + (1 << size) > arena.shape[1]:
                return False
            head[H_TAIL] = target + (1 << size)
        meta[row, M_OFFSET], meta[row, M_CAPACITY] = target, 1 << size
    for j in range(arena.shape[0]):
        for i in range(length):
            arena[j, target + i] = arena[j, offset + start + i]
    if capacity > 0 and target != offset:
        arena[0, offset] = head[H_FREE + size - 1]
        head[H_FREE + size - 1] = offset
    meta[row, M_START] = 0
    return True


@_compiled
def compact(meta, arena, cutoffs, new_meta, new_arena):
    """Writes every entity's live records without gaps, each into the smallest segment that holds them and one more.

    Args:
        cutoffs: int64 [rows], records at or before it are left out.
        new_meta: int64 [rows, 5], written.
        new_arena: int64 [width, n], written; n must be enough (no more than twice the records and four a row).

    Returns:
        records of room used.
    """
    tail = 0
    for row in range(meta.shape[0]):
        first = meta[row, M_OFFSET] + meta[row, M_START]
        last = first + meta[row, M_LENGTH]
        first = _after(arena, first, last, cutoffs[row])
        capacity = 4
        while capacity <= last - first:
            capacity *= 2
        new_meta[row, M_OFFSET], new_meta[row, M_CAPACITY] = tail, capacity
        new_meta[row, M_START], new_meta[row, M_LENGTH] = 0, last - first
        new_meta[row, M_NEWEST] = meta[row, M_NEWEST]
        for j in range(arena.shape[0]):
            for i in range(last - first):
                new_arena[j, tail + i] = arena[j, first + i]
        tail += capacity
    return tail


@_compiled
def _at(arena, column, i):
    """One word of the arena; unsigned indices spare the test for negative ones, so that loops are vectorised."""
    return arena[np.uintp(column), np.uintp(i)]


@_compiled
def _trimmed_mean(arena, column, low, high, times, rounds):
    n = high - low
    total = 0
    for i in range(n):
        total += _at(arena, column, low + i)
    mean = total / n
    for _ in range(rounds):
        limit = np.int64(math.floor(times * mean))  # whole numbers throughout: the loop is vectorised
        total, kept = 0, 0
        for i in range(n):
            value = _at(arena, column, low + i)
            small = value <= limit
            total += value * small
            kept += small
        if kept == 0 or kept == n or total / kept == mean:
            break
        mean = total / kept
    return mean


@_compiled
def _number_window(op, arena, column, low, high, value, current, times, rounds, ts):
    """Operations on the values of a window (and the current one where it counts). NaN: nothing there."""
    past = high - low
    n = past + current
    if op == _TRIMMED_MEAN:
        return _trimmed_mean(arena, column, low, high, times, rounds) if past > 0 else math.nan
    if op == _LAST:
        return float(_at(arena, column, high - 1)) if past > 0 else math.nan
    if n == 0:
        return math.nan
    if op == _MAX:
        largest = value if current else _at(arena, column, low)
        for i in range(past):
            largest = max(largest, _at(arena, column, low + i))
        return float(largest)
    if op == _MIN:
        smallest = value if current else _at(arena, column, low)
        for i in range(past):
            smallest = min(smallest, _at(arena, column, low + i))
        return float(smallest)
    total = value if current else 0
    for i in range(past):
        total += _at(arena, column, low + i)
    if op == _SUM:
        return float(total)
    mean = total / n
    if op == _MEAN:
        return mean
    if op == _SLOPE:
        return _slope(arena, column, low, high, value, current, ts, mean)
    if n < 2:
        return math.nan
    squares = (value - mean) ** 2 if current else 0.0
    for i in range(past):
        squares += (_at(arena, column, low + i) - mean) ** 2
    deviation = math.sqrt(squares / (n - 1))
    if op == _STD:
        return deviation
    return (value - mean) / deviation if deviation > 0.0 else math.nan


@_compiled
def _slope(arena, column, low, high, value, current, ts, mean):
    """Least squares in quanta a day; times are taken from the current event, so they stay small and exact."""
    days = 0.0
    for i in range(low, high):
        days += (arena[TS, i] - ts) / DAY
    middle = days / (high - low + current)
    spread = middle * middle if current else 0.0
    cross = -middle * (value - mean) if current else 0.0
    for i in range(low, high):
        day = (arena[TS, i] - ts) / DAY - middle
        spread += day * day
        cross += day * (arena[column, i] - mean)
    return cross / spread if spread > 0.0 else math.nan


@_compiled
def _above_window(op, arena, column, low, high, value, current, limit, usual, ts):
    """A window's values against what is usual; `limit` and `usual` in quanta. NaN: nothing there."""
    past = high - low
    n = past + current
    if op == _LARGEST_RATIO or op == _LARGEST_EXCESS:
        if n == 0 or usual <= 0.0:
            return math.nan
        largest = value if current else _at(arena, column, low)
        for i in range(past):
            largest = max(largest, _at(arena, column, low + i))
        return largest / usual if op == _LARGEST_RATIO else largest - usual
    most = np.int64(math.floor(limit))
    if op == _AGE_FIRST_ABOVE:
        for i in range(past):
            if _at(arena, column, low + i) > most:
                return (ts - arena[TS, low + i]) / DAY
        return math.nan
    count = 1 if current and value > most else 0
    for i in range(past):
        count += _at(arena, column, low + i) > most
    if op == _COUNT_ABOVE:
        return float(count)
    return count / n if n > 0 else math.nan


@_compiled
def _label_window(op, arena, carried, low, high, at_most, flags, ts):
    """Operations on a window's labels. A positive counts where its carried value is at most `at_most` millionths.

    `carried` is LABEL itself where nothing is carried; every positive then counts, as `at_most` is at least 1.
    """
    n = high - low
    positives = 0
    if op == _LABEL_COUNT or op == _LABEL_RATE:
        for i in range(n):
            positives += (_at(arena, LABEL, low + i) == 1) & (_at(arena, carried, low + i) <= at_most)
        if op == _LABEL_COUNT:
            return float(positives)
        return positives / n if n > 0 else math.nan
    found = -1
    least = np.int64(9e18)
    for back in range(n):
        i = high - 1 - back
        label = arena[LABEL, i]
        if label < 0:
            continue
        if op == _LAST_LABEL:
            return float(label)
        counts = label == 1 and arena[carried, i] <= at_most
        if op == _AGE_OF_LABEL:
            if counts if flags & 1 else label == 0:
                found = i
                if not flags & 2:
                    break
        elif label == 0:
            break
        elif counts:
            positives += 1
            least = min(least, arena[carried, i])
            found = i
    if op == _STREAK:
        return float(positives)
    if op == _LEAST_OF_STREAK:
        return least / MILLIONTHS
    return (ts - arena[TS, found]) / DAY if found >= 0 else math.nan


@_compiled
def _frames(frames, floors, lows, highs, arena, ts, bounds):
    """Finds where each window begins and ends among its entity's records."""
    for w in range(frames.shape[0]):
        entity, delay = frames[w, F_ENTITY], frames[w, F_DELAY_MS]
        start = max(ts - delay - frames[w, F_WINDOW_MS], floors[entity])
        if w > 0 and frames[w - 1, F_ENTITY] == entity and frames[w - 1, F_DELAY_MS] == delay:
            bounds[w, 1] = bounds[w - 1, 1]  # and this window is the longer one: it begins no later
            bounds[w, 0] = _after(arena, lows[entity], bounds[w - 1, 0], start)
        else:
            bounds[w, 1] = _after(arena, lows[entity], highs[entity], ts - delay) if delay > 0 else highs[entity]
            bounds[w, 0] = _after(arena, lows[entity], bounds[w, 1], start)


@_compiled
def _compute(codes, params, batch, i, arena, bounds, registers, out):
    """All features of batch row `i`, given where their windows begin and end."""
    ts = batch[i, B_TS]
    for f in range(codes.shape[0]):
        op, column = codes[f, OP], codes[f, COLUMN]
        per_unit, empty = params[f, PER_UNIT], params[f, EMPTY]
        value = batch[i, B_VALUES + column] if column >= 0 else 0
        current = codes[f, CURRENT] & 1
        low, high = 0, 0
        if codes[f, FRAME] >= 0:
            low, high = bounds[codes[f, FRAME], 0], bounds[codes[f, FRAME], 1]
        result = math.nan
        if op == _VALUE:
            result = value / per_unit
        elif op == _RATIO:
            below = registers[codes[f, RIGHT]]
            result = registers[codes[f, LEFT]] / below if below != 0.0 else math.nan
        elif op == _DIFFERENCE:
            result = registers[codes[f, LEFT]] - registers[codes[f, RIGHT]]
        elif op == _WEEKEND:
            result = 1.0 if (ts // DAY + 3) % 7 >= 5 else 0.0  # 1970-01-01 was a Thursday
        elif op == _NIGHT:
            result = 1.0 if ts % DAY // 3_600_000 <= codes[f, EXTRA] else 0.0
        elif op == _COUNT:
            result = float(high - low + current)
        elif op == _SINCE_LAST:
            result = (ts - arena[TS, high - 1]) / 1000.0 if high > low else math.nan
        elif op >= _LABEL_COUNT and op <= _LEAST_OF_STREAK:
            carried, at_most = codes[f, CARRIED], np.int64(1)
            if carried >= 0:
                at_most = np.int64(params[f, TIMES] * MILLIONTHS)
            else:
                carried = LABEL
            result = _label_window(op, arena, carried, low, high, at_most, codes[f, EXTRA], ts)
            if op == _LEAST_OF_STREAK:
                result = min(result, empty)
        elif op >= _COUNT_ABOVE and op <= _AGE_FIRST_ABOVE:
            usual = registers[codes[f, LEFT]] * per_unit
            limit = params[f, TIMES] * usual
            result = _above_window(op, arena, VALUES + column, low, high, value, current, limit, usual, ts)
            if op == _LARGEST_EXCESS:
                result /= per_unit
        else:
            result = _number_window(
                op, arena, VALUES + column, low, high, value, current, params[f, TIMES], codes[f, EXTRA], ts
            )
            if op != _ZSCORE:
                result /= per_unit
        if math.isnan(result):
            result = value / per_unit if codes[f, CURRENT] & 2 else empty
        registers[f] = result
        out[i, f] = result


@_compiled
def _insert(meta, row, arena, at, most, batch, i, numbers, label, carries, registers):
    """Writes the event's record at position `at` of its entity's segment, shifting what is later."""
    if meta[row, M_LENGTH] >= most:
        if at == meta[row, M_OFFSET] + meta[row, M_START]:
            return
        meta[row, M_START] += 1
        meta[row, M_LENGTH] -= 1
    end = meta[row, M_OFFSET] + meta[row, M_START] + meta[row, M_LENGTH]
    for j in range(arena.shape[0]):
        for later in range(end, at, -1):
            arena[j, later] = arena[j, later - 1]
    arena[TS, at], arena[KEY, at], arena[LABEL, at] = batch[i, B_TS], batch[i, B_KEY], label
    for j in range(numbers):
        arena[VALUES + j, at] = batch[i, B_VALUES + j]
    for j in range(carries.shape[0]):
        if carries[j] >= 0:
            arena[VALUES + numbers + j, at] = np.rint(min(max(registers[carries[j]], -9e11), 9e11) * MILLIONTHS)
        else:
            arena[VALUES + numbers + j, at] = 0
    meta[row, M_LENGTH] += 1
    meta[row, M_NEWEST] = max(meta[row, M_NEWEST], batch[i, B_TS])


@_compiled
def _apply_label(limits, batch, i, meta, arena, table, ring, head):
    """Gives an event its label; one that is not known (yet) gets a place where the label waits for it."""
    key, label = batch[i, B_KEY], batch[i, B_LABEL]
    at = _find(table, ring, key)
    if at < 0:
        slot = head[H_RING_TAIL] & (ring.shape[0] - 1)
        table[-1 - at] = slot
        head[H_RING_TAIL] += 1
        ring[slot, R_KEY], ring[slot, R_TS], ring[slot, R_LABEL], ring[slot, R_WAITS] = key, head[H_NEWEST], label, 1
        return LABEL_WAITS
    slot = table[at]
    if ring[slot, R_LABEL] == label:
        return LABEL_KNOWN
    ring[slot, R_LABEL] = label
    if ring[slot, R_WAITS] == 1:
        return LABEL_WAITS
    ts = ring[slot, R_TS]
    for entity in range(limits[ENTITIES]):
        row = ring[slot, R_ROWS + entity]
        low = meta[row, M_OFFSET] + meta[row, M_START]
        j = _after(arena, low, low + meta[row, M_LENGTH], ts) - 1
        while j >= low and arena[TS, j] == ts:
            if arena[KEY, j] == key:
                arena[LABEL, j] = label
                break
            j -= 1
    return LABELLED


@_compiled
def _has_features(ring, head, slot):
    """Whether the ring's slot is young enough to have a place for its features."""
    tail = head[H_RING_TAIL]
    sequence = tail - 1 - ((tail - 1 - slot) & (ring.shape[0] - 1))
    return sequence >= head[H_FEATURES_HEAD]


@_compiled
def process(
    codes, params, frames, carries, limits, batch, i, n, out, status, meta, arena, table, ring, features, head, work
):
    """Applies batch rows `i` to `n` in order.

    Args:
        codes, params, frames, carries, limits: the domain's program.
        batch: int64 [n, 4 + numbers + entities]: key, ts_ms, is-a-label, label (-1: none), quanta, entity rows.
        out: float32 [n, F], written for events.
        status: uint8 [n], written: what became of the row.
        meta, arena, table, ring, features, head: the state.
        work: float64 [F], scratch.

    Returns:
        `(n, DONE)`, or the row that needs a part of the state enlarged first, and which; that row has changed nothing.
    """
    entities, numbers = limits[ENTITIES], limits[NUMBERS]
    floors, lows, highs = np.empty(entities, np.int64), np.empty(entities, np.int64), np.empty(entities, np.int64)
    bounds = np.empty((frames.shape[0], 2), np.int64)
    while i < n:
        need = _remember_room(limits, table, ring, features, head)
        if need != DONE:
            return i, need
        if batch[i, B_IS_LABEL] == 1:
            status[i] = _apply_label(limits, batch, i, meta, arena, table, ring, head)
            i += 1
            continue
        key, ts = batch[i, B_KEY], batch[i, B_TS]
        at = _find(table, ring, key)
        known = at >= 0 and ring[table[at], R_WAITS] == 0
        if known and _has_features(ring, head, table[at]):
            for f in range(codes.shape[0]):
                out[i, f] = features[table[at] & (features.shape[0] - 1), f]
            status[i] = REPEAT
            i += 1
            continue
        outcome = NEW
        for entity in range(entities):
            row = batch[i, B_VALUES + numbers + entity]
            cutoff = max(ts, meta[row, M_NEWEST]) - limits[PER_ENTITY + 2 * entity]
            if not _room(meta, row, arena, head, cutoff):
                return i, GROW_ARENA
        for entity in range(entities):
            row = batch[i, B_VALUES + numbers + entity]
            newest = max(ts, meta[row, M_NEWEST])
            floors[entity] = newest - limits[PER_ENTITY + 2 * entity]
            lows[entity] = meta[row, M_OFFSET] + meta[row, M_START]
            end = lows[entity] + meta[row, M_LENGTH]
            highs[entity] = _after(arena, lows[entity], end, ts)
            if ts <= newest - limits[GRACE_MS]:
                outcome = max(outcome, TOO_LATE)
            elif highs[entity] < end:
                outcome = max(outcome, LATE)
            j = highs[entity] - 1
            while j >= lows[entity] and arena[TS, j] == ts:  # counted before, but no longer remembered
                if arena[KEY, j] == key:
                    known = True
                    highs[entity] = j
                    break
                j -= 1
        _frames(frames, floors, lows, highs, arena, ts, bounds)
        _compute(codes, params, batch, i, arena, bounds, work, out)
        if known:
            status[i] = RECOMPUTED
            i += 1
            continue
        label = batch[i, B_LABEL]
        head[H_NEWEST] = max(head[H_NEWEST], ts)
        if at >= 0:
            slot = table[at]
            label = ring[slot, R_LABEL]
        else:
            slot = head[H_RING_TAIL] & (ring.shape[0] - 1)
            table[-1 - at] = slot
            head[H_RING_TAIL] += 1
        ring[slot, R_KEY], ring[slot, R_TS], ring[slot, R_LABEL], ring[slot, R_WAITS] = key, ts, label, 0
        if _has_features(ring, head, slot):
            for f in range(codes.shape[0]):
                features[slot & (features.shape[0] - 1), f] = out[i, f]
        for entity in range(entities):
            row = batch[i, B_VALUES + numbers + entity]
            ring[slot, R_ROWS + entity] = row
            if ts > meta[row, M_NEWEST] - limits[GRACE_MS]:
                most = limits[PER_ENTITY + 2 * entity + 1]
                _insert(meta, row, arena, highs[entity], most, batch, i, numbers, label, carries[entity], work)
        status[i] = outcome
        i += 1
    return n, DONE
