"""The one kernel that turns events into features, live and over history alike.

State is plain memory. Every entity owns one contiguous segment of the arena with its records, sorted by
time (ties in order of arrival). A record is `(ts_ms, tag, numbers..., carried...)` in int64 words, the
tag an event's key with its label in the two lowest bits; within a segment each column stands together, so
that a window of one number is contiguous. A ring with a hash table over it remembers events by key:
their features for repeats, and where they went, so that a label finds them. All windows are computed
from the records themselves, newest and oldest by binary search, so nothing drifts and a late event sees
exactly what it would have seen in time. What events to come will look at is fetched ahead, as waiting for
memory would otherwise take most of the time.

All that is compiled stands in this one file, because numba's cache on disk looks at no other: whoever
changes the codes in `windows.py` or the columns in `program.py` must save this file as well.
"""

from __future__ import annotations

import math

import numpy as np

from vigil.domains.windows import Op
from vigil.features.machine import compiled, intrinsic
from vigil.features.program import (
    AN_ENTITY,
    AT_MOST,
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
    KEEP_MS,
    LARGEST,
    LEFT,
    MOST_RECORDS,
    MOST_REMEMBERED,
    MOST_REPEATS,
    NUMBERS,
    OP,
    PER_ENTITY,
    PER_UNIT,
    POSITIVES,
    PREVIOUS,
    REPEAT_MS,
    RIGHT,
    SMALLEST,
    T_AT_MOST,
    T_COLUMN,
    T_FRAME,
    T_KIND,
    T_PREVIOUS,
    TAG,
    TALLY,
    TIMES,
    TOTAL,
    TS,
    VALUES,
    WIDTH,
)

# What became of an event (0-4) or a label (5-7).
NEW, LATE, TOO_LATE, REPEAT, RECOMPUTED, LABELLED, LABEL_KNOWN, LABEL_WAITS = range(8)
# Columns of a batch row before its numbers, then the rows of its entities.
B_KEY, B_TS, B_IS_LABEL, B_LABEL, B_VALUES = range(5)
# Columns of an entity's row: its segment's first word and records of room, its first record and how many there are.
M_OFFSET, M_CAPACITY, M_START, M_LENGTH, M_NEWEST = range(5)
# Columns of the ring before the rows of the event's entities. A moment is ts_ms * 8, 4 where a label waits, label + 1.
R_KEY, R_MOMENT, R_ROWS = range(3)
WAITS = 4
# Entries of the head; free segments of size class k are chained from H_FREE + k.
H_TAIL, H_RING_HEAD, H_RING_TAIL, H_FEATURES_HEAD, H_NEWEST, H_FREE, H_SIZE = 0, 1, 2, 3, 4, 8, 56
# What the caller must enlarge before going on.
DONE, GROW_ARENA, GROW_RING, GROW_FEATURES = range(4)

DAY = 86_400_000
MILLIONTHS = 1_000_000.0
# A tag's lowest bits: label + 1. Of the segments' words, those of one line of the cache.
LABEL_BITS, GOOD, BAD, LINE = 3, 1, 2, 8
MOST = (1 << 63) - 1
# Rows of a batch by which what they need is fetched ahead: first where it stands, then itself.
FAR, NEAR = 16, 6

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


@intrinsic
def _fetch(context, array, index):
    """Starts to bring the array's word `index`, counted through all its rows, into the cache."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [at.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [at, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@compiled
def _at(arena, i):
    """One word of the arena; unsigned indices spare the test for negative ones, so that loops are vectorised."""
    return arena[np.uintp(i)]


@compiled
def _search(arena, low, n, ts):
    """First of the `n` records from `low` on later than `ts`; without branches, which would be guessed wrong."""
    while n > 1:
        half = n >> 1
        low += half * (_at(arena, low + half - 1) <= ts)
        n -= half
    return low + (n == 1 and _at(arena, low) <= ts)


@compiled
def _after(arena, low, high, ts):
    """First index in [low, high) whose record is later than `ts`: mostly there is none."""
    if high > low and _at(arena, high - 1) <= ts:
        return high
    return _search(arena, low, high - low, ts)


@compiled
def _home(key, mask):
    """Where a key belongs in the hash table (murmur3's finaliser)."""
    k = np.uint64(key)
    k ^= k >> np.uint64(33)
    k *= np.uint64(0xFF51AFD7ED558CCD)
    k ^= k >> np.uint64(33)
    k *= np.uint64(0xC4CEB9FE1A85EC53)
    k ^= k >> np.uint64(33)
    return np.int64(k & np.uint64(mask))


@compiled
def _find(table, ring, key):
    """Index in the table of a known key; `-1 - index` of the free place where it would go."""
    mask = table.shape[0] - 1
    at = _home(key, mask)
    while table[at] >= 0:
        if ring[table[at], R_KEY] == key:
            return at
        at = (at + 1) & mask
    return -1 - at


@compiled
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


@compiled
def index_ring(table, ring, head, tail):
    """Fills an empty hash table with the ring's entries `head` to `tail`."""
    mask = table.shape[0] - 1
    for sequence in range(head, tail):
        slot = sequence & (ring.shape[0] - 1)
        at = _home(ring[slot, R_KEY], mask)
        while table[at] >= 0:
            at = (at + 1) & mask
        table[at] = slot


@compiled
def _remember_room(limits, table, ring, features, head):
    """Makes room for one more remembered event. Only a full ring forgets: what is out of its time, or too much."""
    if head[H_RING_TAIL] - head[H_RING_HEAD] >= ring.shape[0]:
        slot = head[H_RING_HEAD] & (ring.shape[0] - 1)
        if ring[slot, R_MOMENT] >> 3 > head[H_NEWEST] - limits[FEEDBACK_MS] and ring.shape[0] < limits[MOST_REMEMBERED]:
            return GROW_RING
        _forget(table, ring, ring[slot, R_KEY])
        head[H_RING_HEAD] += 1
        head[H_FEATURES_HEAD] = max(head[H_FEATURES_HEAD], head[H_RING_HEAD])
    if head[H_RING_TAIL] - head[H_FEATURES_HEAD] >= features.shape[0]:
        slot = head[H_FEATURES_HEAD] & (ring.shape[0] - 1)
        if ring[slot, R_MOMENT] >> 3 > head[H_NEWEST] - limits[REPEAT_MS] and features.shape[0] < limits[MOST_REPEATS]:
            return GROW_FEATURES
        head[H_FEATURES_HEAD] += 1
    return DONE


@compiled
def _words(size):
    """Words of a segment of a size class: 16, 24, 32, 48, 64, 96 and so on."""
    return (2 + (size & 1)) << ((size >> 1) + 3)


@compiled
def _size_for(words):
    """The smallest size class of at least so many words."""
    size = 0
    while _words(size) < words:
        size += 1
    return size


@compiled
def _room(meta, row, width, arena, head, cutoff):
    """Makes room for one more record of an entity, dropping those at or before `cutoff` where it is full."""
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
        size = _size_for((capacity + 1) * width)
        room = _words(size) // width
        target = head[H_FREE + size]
        if target >= 0:
            head[H_FREE + size] = arena[target]
        else:
            target = head[H_TAIL]
            if target + _words(size) > arena.shape[0]:
                return False
            head[H_TAIL] = target + _words(size)
        meta[row, M_OFFSET], meta[row, M_CAPACITY] = target, room
    for j in range(width):
        for i in range(length):
            arena[target + j * room + i] = arena[offset + j * capacity + start + i]
    if capacity > 0 and target != offset:
        size = _size_for(capacity * width)
        arena[offset] = head[H_FREE + size]
        head[H_FREE + size] = offset
    meta[row, M_START] = 0
    return True


@compiled
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
        first = _after(arena, first, last, cutoffs[row])
        size = _size_for((last - first + 1) * width)
        room = _words(size) // width
        new_meta[row, M_OFFSET], new_meta[row, M_CAPACITY] = tail, room
        new_meta[row, M_START], new_meta[row, M_LENGTH] = 0, last - first
        new_meta[row, M_NEWEST] = meta[row, M_NEWEST]
        for j in range(width):
            for i in range(last - first):
                new_arena[tail + j * room + i] = arena[first + j * capacity + i]
        tail += _words(size)
    return tail


@compiled
def _newest_label(arena, first, n):
    """Which of `n` tags is the newest with a label; -1 where there is none."""
    while n >= 16:
        any_of_them = 0
        for i in range(16):
            any_of_them |= _at(arena, first + n - 16 + i) & LABEL_BITS
        if any_of_them:
            break
        n -= 16
    while n > 0 and not _at(arena, first + n - 1) & LABEL_BITS:
        n -= 1
    return n - 1


@compiled
def _tally(tallies, frames, bounds, strides, arena, found):
    """What the windows hold, each record looked at once: a longer window adds what a shorter one has not."""
    for t in range(tallies.shape[0]):
        kind, frame, column = tallies[t, T_KIND], tallies[t, T_FRAME], tallies[t, T_COLUMN]
        previous, stride = tallies[t, T_PREVIOUS], strides[frames[frame, F_ENTITY]]
        low, high = bounds[frame, 0], bounds[frame, 1]
        if previous >= 0:
            high = bounds[tallies[previous, T_FRAME], 0]
        first, n = low + column * stride, high - low
        if kind == TOTAL:
            total = found[previous] if previous >= 0 else 0
            for i in range(n):
                total += _at(arena, first + i)
            found[t] = total
        elif kind == POSITIVES:
            count, at_most = found[previous] if previous >= 0 else 0, tallies[t, T_AT_MOST]
            tags = low + TAG * stride
            for i in range(n):
                count += (_at(arena, tags + i) & LABEL_BITS == BAD) & (_at(arena, first + i) <= at_most)
            found[t] = count
        elif kind == LARGEST:
            largest = found[previous] if previous >= 0 else -MOST
            for i in range(n):
                largest = max(largest, _at(arena, first + i))
            found[t] = largest
        elif kind == SMALLEST:
            smallest = found[previous] if previous >= 0 else MOST
            for i in range(n):
                smallest = min(smallest, _at(arena, first + i))
            found[t] = smallest
        elif previous >= 0 and found[previous] >= 0:
            found[t] = found[previous]
        else:
            newest = _newest_label(arena, first, n)
            found[t] = low + newest if newest >= 0 else -1


@compiled
def _trimmed_mean(arena, first, n, total, times, rounds):
    mean = total / n
    for _ in range(rounds):
        limit = np.int64(math.floor(times * mean))  # whole numbers throughout: the loop is vectorised
        total, kept = 0, 0
        for i in range(n):
            value = _at(arena, first + i)
            small = value <= limit
            total += value if small else 0
            kept += small
        if kept == 0 or kept == n or total / kept == mean:
            break
        mean = total / kept
    return mean


@compiled
def _number_window(op, arena, low, high, stride, column, tallied, value, current, times, rounds, ts):
    """Operations on the values of a window (and the current one where it counts). NaN: nothing there."""
    past = high - low
    n = past + current
    first = low + column * stride
    if op == _TRIMMED_MEAN:
        return _trimmed_mean(arena, first, past, tallied, times, rounds) if past > 0 else math.nan
    if op == _LAST:
        return float(_at(arena, first + past - 1)) if past > 0 else math.nan
    if n == 0:
        return math.nan
    if op == _MAX:
        return float(max(value, tallied) if current else tallied)
    if op == _MIN:
        return float(min(value, tallied) if current else tallied)
    total = tallied + (value if current else 0)
    if op == _SUM:
        return float(total)
    mean = total / n
    if op == _MEAN:
        return mean
    if op == _SLOPE:
        return _slope(arena, low, high, first, value, current, ts, mean)
    if n < 2:
        return math.nan
    squares = (value - mean) ** 2 if current else 0.0
    for i in range(past):
        squares += (_at(arena, first + i) - mean) ** 2
    deviation = math.sqrt(squares / (n - 1))
    if op == _STD:
        return deviation
    return (value - mean) / deviation if deviation > 0.0 else math.nan


@compiled
def _slope(arena, low, high, first, value, current, ts, mean):
    """Least squares in quanta a day; times are taken from the current event, so they stay small and exact."""
    days = 0.0
    for i in range(low, high):
        days += (arena[i] - ts) / DAY
    middle = days / (high - low + current)
    spread = middle * middle if current else 0.0
    cross = -middle * (value - mean) if current else 0.0
    for i in range(high - low):
        day = (arena[low + i] - ts) / DAY - middle
        spread += day * day
        cross += day * (arena[first + i] - mean)
    return cross / spread if spread > 0.0 else math.nan


@compiled
def _count_above(arena, first, n, most):
    count = 0
    for i in range(n):
        count += _at(arena, first + i) > most
    return count


@compiled
def _label_window(op, arena, low, high, stride, carried, at_most, tallied, flags, ts):
    """Operations on a window's labels. A positive counts where its carried value is at most `at_most` millionths.

    `tallied` is how many positives count, or (of what looks at the newest first) where the newest label stands.
    """
    if op == _LABEL_COUNT:
        return float(tallied)
    if op == _LABEL_RATE:
        return tallied / (high - low) if high > low else math.nan
    tags, beside = TAG * stride, carried * stride
    if op == _AGE_OF_LABEL:
        i, step = (low, 1) if flags & 2 else (high - 1, -1)
        if flags & 1 and tallied == 0:
            return math.nan
        if not flags & 1:
            if tallied < 0:
                return math.nan
            i = i if flags & 2 else tallied
        while low <= i < high:
            label = arena[i + tags] & LABEL_BITS
            if (label == BAD and arena[i + beside] <= at_most) if flags & 1 else label == GOOD:
                return (ts - arena[i]) / DAY
            i += step
        return math.nan
    if op == _LAST_LABEL:
        return float((arena[tallied + tags] & LABEL_BITS) - 1) if tallied >= 0 else math.nan
    found, positives, least = -1, 0, np.int64(9e18)
    for back in range(tallied - low + 1 if tallied >= 0 else 0):
        i = tallied - back
        label = arena[i + tags] & LABEL_BITS
        if label == GOOD:
            break
        if label == BAD and arena[i + beside] <= at_most:
            positives += 1
            least = min(least, arena[i + beside])
            found = i
    if op == _STREAK:
        return float(positives)
    if op == _LEAST_OF_STREAK:
        return least / MILLIONTHS
    return (ts - arena[found]) / DAY if found >= 0 else math.nan


@compiled
def _frames(frames, floors, lows, highs, arena, ts, bounds):
    """Finds where each window begins and ends; each by itself, so that the processor searches for many at once."""
    for w in range(frames.shape[0]):
        entity, delay = frames[w, F_ENTITY], frames[w, F_DELAY_MS]
        low, high = lows[entity], highs[entity]
        begin = _search(arena, low, high - low, max(ts - delay - frames[w, F_WINDOW_MS], floors[entity]))
        end = high
        if delay > 0:
            if w > 0 and frames[w - 1, F_ENTITY] == entity and frames[w - 1, F_DELAY_MS] == delay:
                end = bounds[w - 1, 1]
            else:
                end = _search(arena, low, high - low, ts - delay)
        bounds[w, 0], bounds[w, 1] = min(begin, end), end


@compiled
def _compute(codes, params, frames, batch, i, arena, bounds, strides, tallied, counts, registers, out):
    """All features of batch row `i`, given where their windows begin and end and what they hold."""
    ts = batch[i, B_TS]
    for f in range(codes.shape[0]):
        op, column, frame = codes[f, OP], codes[f, COLUMN], codes[f, FRAME]
        per_unit = params[f, PER_UNIT]
        value = batch[i, B_VALUES + column] if column >= 0 else 0
        current = codes[f, CURRENT] & 1
        low, high, stride, tally = 0, 0, 0, 0
        if frame >= 0:
            low, high, stride = bounds[frame, 0], bounds[frame, 1], strides[frames[frame, F_ENTITY]]
        if codes[f, TALLY] >= 0:
            tally = tallied[codes[f, TALLY]]
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
            result = (ts - arena[high - 1]) / 1000.0 if high > low else math.nan
        elif op >= _LABEL_COUNT and op <= _LEAST_OF_STREAK:
            carried, at_most, flags = codes[f, CARRIED], codes[f, AT_MOST], codes[f, EXTRA]
            result = _label_window(op, arena, low, high, stride, carried, at_most, tally, flags, ts)
            if op == _LEAST_OF_STREAK:
                result = min(result, params[f, EMPTY])
        elif op == _LARGEST_RATIO or op == _LARGEST_EXCESS:
            usual = registers[codes[f, LEFT]] * per_unit
            if high - low + current > 0 and usual > 0.0:
                largest = max(value, tally) if current else tally
                result = largest / usual if op == _LARGEST_RATIO else (largest - usual) / per_unit
        elif op >= _COUNT_ABOVE and op <= _AGE_FIRST_ABOVE:
            usual = registers[codes[f, LEFT]] * per_unit
            most = np.int64(math.floor(params[f, TIMES] * usual))
            count, until, previous = 0, high, codes[f, PREVIOUS]
            if previous >= 0:
                count, until = counts[previous], bounds[codes[previous, FRAME], 0]
            first = low + (VALUES + column) * stride
            count += _count_above(arena, first, until - low, most)
            counts[f] = count
            if op == _AGE_FIRST_ABOVE:
                if count > 0:
                    at = 0
                    while arena[first + at] <= most:
                        at += 1
                    result = (ts - arena[low + at]) / DAY
            else:
                count += current & (value > most)
                if op == _COUNT_ABOVE:
                    result = float(count)
                elif high - low + current > 0:
                    result = count / (high - low + current)
        else:
            result = _number_window(
                op, arena, low, high, stride, VALUES + column, tally, value, current, params[f, TIMES],
                codes[f, EXTRA], ts,
            )  # fmt: skip
            if op != _ZSCORE:
                result /= per_unit
        if math.isnan(result):
            result = value / per_unit if codes[f, CURRENT] & 2 else params[f, EMPTY]
        registers[f] = result
        out[i, f] = result


@compiled
def _insert(meta, row, width, arena, at, most, batch, i, numbers, label, carries, registers):
    """Writes the event's record at position `at` of its entity's segment, shifting what is later."""
    if meta[row, M_LENGTH] >= most:
        if at == meta[row, M_OFFSET] + meta[row, M_START]:
            return
        meta[row, M_START] += 1
        meta[row, M_LENGTH] -= 1
    end, stride = meta[row, M_OFFSET] + meta[row, M_START] + meta[row, M_LENGTH], meta[row, M_CAPACITY]
    if end > at:
        for j in range(width):
            for later in range(end + j * stride, at + j * stride, -1):
                arena[later] = arena[later - 1]
    arena[at + TS * stride] = batch[i, B_TS]
    arena[at + TAG * stride] = (batch[i, B_KEY] & ~LABEL_BITS) | (label + 1)
    for j in range(numbers):
        arena[at + (VALUES + j) * stride] = batch[i, B_VALUES + j]
    for j in range(width - VALUES - numbers):
        carried = np.rint(min(max(registers[carries[j]], -9e11), 9e11) * MILLIONTHS)
        arena[at + (VALUES + numbers + j) * stride] = np.int64(carried)
    meta[row, M_LENGTH] += 1
    meta[row, M_NEWEST] = max(meta[row, M_NEWEST], batch[i, B_TS])


@compiled
def _record(arena, low, last, stride, ts, key):
    """Where an event's record stands, looking back from `last` through those of its time; -1: nowhere."""
    while last >= low and arena[last] == ts:
        if (arena[last + TAG * stride] ^ key) & ~LABEL_BITS == 0:
            return last
        last -= 1
    return -1


@compiled
def _apply_label(limits, batch, i, meta, arena, table, ring, head):
    """Gives an event its label; one that is not known (yet) gets a place where the label waits for it."""
    key, label = batch[i, B_KEY], batch[i, B_LABEL]
    at = _find(table, ring, key)
    if at < 0:
        slot = head[H_RING_TAIL] & (ring.shape[0] - 1)
        table[-1 - at] = slot
        head[H_RING_TAIL] += 1
        ring[slot, R_KEY], ring[slot, R_MOMENT] = key, (head[H_NEWEST] << 3) | WAITS | (label + 1)
        return LABEL_WAITS
    slot = table[at]
    moment = ring[slot, R_MOMENT]
    if moment & LABEL_BITS == label + 1:
        return LABEL_KNOWN
    ring[slot, R_MOMENT] = (moment & ~LABEL_BITS) | (label + 1)
    if moment & WAITS:
        return LABEL_WAITS
    ts = moment >> 3
    for entity in range(limits[ENTITIES]):
        row = ring[slot, R_ROWS + entity]
        low, stride = meta[row, M_OFFSET] + meta[row, M_START], meta[row, M_CAPACITY]
        j = _record(arena, low, _after(arena, low, low + meta[row, M_LENGTH], ts) - 1, stride, ts, key)
        if j >= 0:
            arena[j + TAG * stride] = (key & ~LABEL_BITS) | (label + 1)
    return LABELLED


@compiled
def _has_features(ring, head, slot):
    """Whether the ring's slot is young enough to have a place for its features."""
    tail = head[H_RING_TAIL]
    sequence = tail - 1 - ((tail - 1 - slot) & (ring.shape[0] - 1))
    return sequence >= head[H_FEATURES_HEAD]


@compiled
def _fetch_ahead(limits, reads, batch, i, n, meta, arena, table, ring):
    """Starts to bring into the cache what rows some way ahead will look at; what it fetches decides nothing."""
    entities, rows = limits[ENTITIES], B_VALUES + limits[NUMBERS]
    mask = table.shape[0] - 1
    if i + FAR < n:
        _fetch(table, _home(batch[i + FAR, B_KEY], mask))
        for entity in range(entities):
            _fetch(meta, batch[i + FAR, rows + entity] * meta.shape[1])
    if i + NEAR >= n:
        return
    slot = table[_home(batch[i + NEAR, B_KEY], mask)]
    if slot >= 0:
        _fetch(ring, np.int64(slot) * ring.shape[1])
    for entity in range(entities):
        row = batch[i + NEAR, rows + entity]
        first, stride, length = meta[row, M_OFFSET] + meta[row, M_START], meta[row, M_CAPACITY], meta[row, M_LENGTH]
        for j in range(limits[PER_ENTITY + AN_ENTITY * entity + WIDTH]):
            low = first + j * stride
            for at in range(low if reads[entity, j] else low + length, low + length, LINE):
                _fetch(arena, at)
            _fetch(arena, low + length)


@compiled
def process(
    codes, params, frames, tallies, carries, limits, reads, batch, i, n, out, status,
    meta, arena, table, ring, features, head, registers, scratch,
):  # fmt: skip
    """Applies batch rows `i` to `n` in order.

    Args:
        codes, params, frames, tallies, carries, limits, reads: the domain's program.
        batch: int64 [n, 4 + numbers + entities]: key, ts_ms, is-a-label, label (-1: none), quanta, entity rows.
        out: float32 [n, F], written for events.
        status: uint8 [n], written: what became of the row.
        meta, arena, table, ring, features, head: the state.
        registers, scratch: float64 [F] and int64 [4 E + 2 W + T + F], overwritten.

    Returns:
        `(n, DONE)`, or the row that needs a part of the state enlarged first, and which; that row has changed nothing.
    """
    entities, numbers = limits[ENTITIES], limits[NUMBERS]
    floors, lows = scratch[:entities], scratch[entities : 2 * entities]
    highs, strides = scratch[2 * entities : 3 * entities], scratch[3 * entities : 4 * entities]
    tally = 4 * entities + 2 * frames.shape[0]
    bounds = scratch[4 * entities : tally].reshape(frames.shape[0], 2)
    tallied, counts = scratch[tally : tally + tallies.shape[0]], scratch[tally + tallies.shape[0] :]
    while i < n:
        need = _remember_room(limits, table, ring, features, head)
        if need != DONE:
            return i, need
        _fetch_ahead(limits, reads, batch, i, n, meta, arena, table, ring)
        if batch[i, B_IS_LABEL] == 1:
            status[i] = _apply_label(limits, batch, i, meta, arena, table, ring, head)
            i += 1
            continue
        key, ts = batch[i, B_KEY], batch[i, B_TS]
        at = _find(table, ring, key)
        known = at >= 0 and not ring[table[at], R_MOMENT] & WAITS
        if known and _has_features(ring, head, table[at]):
            for f in range(codes.shape[0]):
                out[i, f] = features[table[at] & (features.shape[0] - 1), f]
            status[i] = REPEAT
            i += 1
            continue
        outcome, held, lacking = NEW, 0, False
        for entity in range(entities):
            row, limit = batch[i, B_VALUES + numbers + entity], PER_ENTITY + AN_ENTITY * entity
            cutoff = max(ts, meta[row, M_NEWEST]) - limits[limit + KEEP_MS]
            if not _room(meta, row, limits[limit + WIDTH], arena, head, cutoff):
                return i, GROW_ARENA
        for entity in range(entities):
            row = batch[i, B_VALUES + numbers + entity]
            newest = max(ts, meta[row, M_NEWEST])
            floors[entity] = newest - limits[PER_ENTITY + AN_ENTITY * entity + KEEP_MS]
            lows[entity], strides[entity] = meta[row, M_OFFSET] + meta[row, M_START], meta[row, M_CAPACITY]
            end = lows[entity] + meta[row, M_LENGTH]
            highs[entity] = _after(arena, lows[entity], end, ts)
            if ts <= newest - limits[GRACE_MS]:
                outcome = max(outcome, TOO_LATE)
            elif highs[entity] < end:
                outcome = max(outcome, LATE)
            counted = _record(arena, lows[entity], highs[entity] - 1, strides[entity], ts, key)
            if counted >= 0:  # but no longer remembered
                held |= 1 << entity
                highs[entity] = counted
            elif ts > meta[row, M_NEWEST] - limits[GRACE_MS]:
                lacking = True
        _frames(frames, floors, lows, highs, arena, ts, bounds)
        _tally(tallies, frames, bounds, strides, arena, tallied)
        _compute(codes, params, frames, batch, i, arena, bounds, strides, tallied, counts, registers, out)
        if known or (held and not lacking):  # held by some and lacking in others: half written, to be completed
            status[i] = RECOMPUTED
            i += 1
            continue
        label = batch[i, B_LABEL]
        head[H_NEWEST] = max(head[H_NEWEST], ts)
        if at >= 0:
            slot = np.int64(table[at])
            label = (ring[slot, R_MOMENT] & LABEL_BITS) - 1
        else:
            slot = head[H_RING_TAIL] & (ring.shape[0] - 1)
            table[-1 - at] = slot
            head[H_RING_TAIL] += 1
        ring[slot, R_KEY], ring[slot, R_MOMENT] = key, (ts << 3) | (label + 1)
        if _has_features(ring, head, slot):
            for f in range(codes.shape[0]):
                features[slot & (features.shape[0] - 1), f] = out[i, f]
        for entity in range(entities):
            row, limit = batch[i, B_VALUES + numbers + entity], PER_ENTITY + AN_ENTITY * entity
            ring[slot, R_ROWS + entity] = row
            if not (held >> entity) & 1 and ts > meta[row, M_NEWEST] - limits[GRACE_MS]:
                width, most = limits[limit + WIDTH], limits[limit + MOST_RECORDS]
                _insert(
                    meta, row, width, arena, highs[entity], most, batch, i, numbers, label, carries[entity], registers
                )
        status[i] = outcome
        i += 1
    return n, DONE
