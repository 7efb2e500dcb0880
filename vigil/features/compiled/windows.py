"""What features compute: a function for each category of kinds (`vigil/domains/windows.py` declares the kinds).

All windows are computed from the records themselves, whose first and last are found by binary search. So nothing
drifts, and a late event sees exactly what it would have seen in time. NaN stands for "nothing to compute from".
"""

from __future__ import annotations

import math

import numpy as np

from vigil.domains.windows import CODES as KINDS
from vigil.domains.windows import Category, Tally
from vigil.features.compiled.layout import (
    ANY,
    AT_MOST,
    B_TS,
    B_VALUES,
    BAD,
    CARRIED,
    CATEGORY,
    COLUMN,
    COUNTS,
    CURRENT,
    DAY_MS,
    DIVISOR,
    EMPTY,
    F_DELAY_MS,
    F_ENTITY,
    F_WINDOW_MS,
    FRAME,
    GOOD,
    LABEL_BITS,
    LEFT,
    MILLIONTHS,
    OP,
    OR_CURRENT,
    PER_UNIT,
    PREVIOUS,
    RIGHT,
    T_AT_MOST,
    T_COLUMN,
    T_FRAME,
    T_KIND,
    T_PREVIOUS,
    TAG,
    TALLY,
    TIMES,
    VALUES,
    WHOLE,
)
from vigil.features.compiled.machine import compiled
from vigil.features.compiled.segments import search, word

_EVENT, _COMBINATION = int(Category.EVENT), int(Category.COMBINATION)
_RECORDS, _NUMBERS = int(Category.RECORDS), int(Category.NUMBERS)
_ABOVE = int(Category.ABOVE)
_TOTAL, _LARGEST, _SMALLEST = int(Tally.TOTAL), int(Tally.LARGEST), int(Tally.SMALLEST)
_POSITIVES = int(Tally.POSITIVES)

_VALUE, _WEEKEND = KINDS["VALUE"], KINDS["WEEKEND"]
_RATIO = KINDS["RATIO"]
_COUNT = KINDS["COUNT"]
_SUM, _MEAN, _STD, _MAX, _MIN = KINDS["SUM"], KINDS["MEAN"], KINDS["STD"], KINDS["MAX"], KINDS["MIN"]
_TRIMMED_MEAN, _LAST, _SLOPE = KINDS["TRIMMED_MEAN"], KINDS["LAST"], KINDS["SLOPE"]
_COUNT_ABOVE, _AGE_FIRST_ABOVE = KINDS["COUNT_ABOVE"], KINDS["AGE_FIRST_ABOVE"]
_LARGEST_RATIO = KINDS["LARGEST_RATIO"]
_LABEL_COUNT, _LABEL_RATE, _LAST_LABEL = KINDS["LABEL_COUNT"], KINDS["LABEL_RATE"], KINDS["LAST_LABEL"]
_AGE_OF_LABEL, _STREAK, _LEAST_OF_STREAK = KINDS["AGE_OF_LABEL"], KINDS["STREAK"], KINDS["LEAST_OF_STREAK"]


@compiled
def find_frames(frames, floors, lows, highs, arena, ts, bounds):
    """Finds where each window begins and ends; each by itself, so that the processor searches for many at once."""
    for w in range(frames.shape[0]):
        entity, delay = frames[w, F_ENTITY], frames[w, F_DELAY_MS]
        low, high = lows[entity], highs[entity]
        begin = search(arena, low, high - low, max(ts - delay - frames[w, F_WINDOW_MS], floors[entity]))
        end = high
        if delay > 0:
            if w > 0 and frames[w - 1, F_ENTITY] == entity and frames[w - 1, F_DELAY_MS] == delay:
                end = bounds[w - 1, 1]
            else:
                end = search(arena, low, high - low, ts - delay)
        bounds[w, 0], bounds[w, 1] = min(begin, end), end


@compiled
def _newest_label(arena, first, n):
    """Which of `n` tags is the newest with a label; -1 where there is none."""
    while n >= 16:
        any_of_them = 0
        for i in range(16):
            any_of_them |= word(arena, first + n - 16 + i) & LABEL_BITS
        if any_of_them:
            break
        n -= 16
    while n > 0 and not word(arena, first + n - 1) & LABEL_BITS:
        n -= 1
    return n - 1


@compiled
def tally(tallies, frames, bounds, strides, arena, found):
    """What the windows hold, each record looked at once: a longer window adds what a shorter one has not."""
    for t in range(tallies.shape[0]):
        kind, frame, column = tallies[t, T_KIND], tallies[t, T_FRAME], tallies[t, T_COLUMN]
        previous, stride = tallies[t, T_PREVIOUS], strides[frames[frame, F_ENTITY]]
        low, high = bounds[frame, 0], bounds[frame, 1]
        if previous >= 0:
            high = bounds[tallies[previous, T_FRAME], 0]
        first, n = low + column * stride, high - low
        if kind == _TOTAL:
            total = found[previous] if previous >= 0 else 0
            for i in range(n):
                total += word(arena, first + i)
            found[t] = total
        elif kind == _POSITIVES:
            count, at_most = found[previous] if previous >= 0 else 0, tallies[t, T_AT_MOST]
            tags = low + TAG * stride
            for i in range(n):
                count += (word(arena, tags + i) & LABEL_BITS == BAD) & (word(arena, first + i) <= at_most)
            found[t] = count
        elif kind == _LARGEST:
            largest = found[previous] if previous >= 0 else -ANY
            for i in range(n):
                largest = max(largest, word(arena, first + i))
            found[t] = largest
        elif kind == _SMALLEST:
            smallest = found[previous] if previous >= 0 else ANY
            for i in range(n):
                smallest = min(smallest, word(arena, first + i))
            found[t] = smallest
        elif previous >= 0 and found[previous] >= 0:
            found[t] = found[previous]
        else:
            newest = _newest_label(arena, first, n)
            found[t] = low + newest if newest >= 0 else -1


@compiled
def _of_event(op, value, ts, last_hour):
    """Kinds that look at the event alone; `last_hour` is of NIGHT."""
    if op == _VALUE:
        return float(value)
    if op == _WEEKEND:
        return 1.0 if (ts // DAY_MS + 3) % 7 >= 5 else 0.0  # 1970-01-01 was a Thursday
    return 1.0 if ts % DAY_MS // 3_600_000 <= last_hour else 0.0


@compiled
def _of_features(op, left, right):
    """Kinds that combine two earlier features of the event."""
    if op == _RATIO:
        return left / right if right != 0.0 else math.nan
    return left - right


@compiled
def _of_records(op, arena, low, high, current, ts):
    """Kinds that look at the records of a window, whatever they hold."""
    if op == _COUNT:
        return float(high - low + current)
    return (ts - arena[high - 1]) / 1000.0 if high > low else math.nan


@compiled
def _trimmed_mean(arena, first, n, total, times, rounds):
    mean = total / n
    for _ in range(rounds):
        limit = np.int64(math.floor(times * mean))  # whole numbers throughout: the loop is vectorised
        total, kept = 0, 0
        for i in range(n):
            value = word(arena, first + i)
            small = value <= limit
            total += value if small else 0
            kept += small
        if kept == 0 or kept == n or total / kept == mean:
            break
        mean = total / kept
    return mean


@compiled
def _of_numbers(op, arena, low, high, stride, column, tallied, value, current, times, rounds, ts):
    """Kinds that look at a number of a window's records, and the event's own where it counts.

    `times` and `rounds` are of TRIMMED_MEAN.
    """
    past = high - low
    n = past + current
    first = low + column * stride
    if op == _TRIMMED_MEAN:
        return _trimmed_mean(arena, first, past, tallied, times, rounds) if past > 0 else math.nan
    if op == _LAST:
        return float(word(arena, first + past - 1)) if past > 0 else math.nan
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
        squares += (word(arena, first + i) - mean) ** 2
    deviation = math.sqrt(squares / (n - 1))
    if op == _STD:
        return deviation
    return (value - mean) / deviation if deviation > 0.0 else math.nan


@compiled
def _slope(arena, low, high, first, value, current, ts, mean):
    """Least squares in quanta a day; times are taken from the current event, so they stay small and exact."""
    days = 0.0
    for i in range(low, high):
        days += (arena[i] - ts) / DAY_MS
    middle = days / (high - low + current)
    spread = middle * middle if current else 0.0
    cross = -middle * (value - mean) if current else 0.0
    for i in range(high - low):
        day = (arena[low + i] - ts) / DAY_MS - middle
        spread += day * day
        cross += day * (arena[first + i] - mean)
    return cross / spread if spread > 0.0 else math.nan


@compiled
def _count_above(arena, first, n, most):
    count = 0
    for i in range(n):
        count += word(arena, first + i) > most
    return count


@compiled
def _largest_above(op, n, tallied, value, current, usual, per_unit):
    """LARGEST_RATIO and LARGEST_EXCESS; `usual` in quanta, `n` records with the event where it counts."""
    if n == 0 or usual <= 0.0:
        return math.nan
    largest = max(value, tallied) if current else tallied
    return largest / usual if op == _LARGEST_RATIO else (largest - usual) / per_unit


@compiled
def _of_counts(op, arena, low, high, first, value, current, most, count, ts):
    """Kinds that count the records above `most` quanta, of which there are `count`."""
    if op == _AGE_FIRST_ABOVE:
        if count == 0:
            return math.nan
        at = 0
        while arena[first + at] <= most:
            at += 1
        return (ts - arena[low + at]) / DAY_MS
    count += current & (value > most)
    if op == _COUNT_ABOVE:
        return float(count)
    return count / (high - low + current) if high - low + current > 0 else math.nan


@compiled
def _of_labels(op, arena, low, high, stride, carried, at_most, tallied, positive, first, empty, ts):
    """Kinds that look at a window's labels. A positive counts where its carried value is at most `at_most` millionths.

    `tallied` is how many positives count, or (of what looks at the newest first) where the newest label stands.
    `positive` and `first` are of AGE_OF_LABEL: whether it looks for a positive one, whether for the window's first.
    """
    if op == _LABEL_COUNT:
        return float(tallied)
    if op == _LABEL_RATE:
        return tallied / (high - low) if high > low else math.nan
    tags, beside = TAG * stride, carried * stride
    if op == _AGE_OF_LABEL:
        i, step = (low, 1) if first else (high - 1, -1)
        if positive and tallied == 0:
            return math.nan
        if not positive:
            if tallied < 0:
                return math.nan
            i = i if first else tallied
        while low <= i < high:
            label = arena[i + tags] & LABEL_BITS
            if (label == BAD and arena[i + beside] <= at_most) if positive else label == GOOD:
                return (ts - arena[i]) / DAY_MS
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
        return min(least / MILLIONTHS, empty)
    return (ts - arena[found]) / DAY_MS if found >= 0 else math.nan


@compiled
def compute(codes, params, frames, batch, i, arena, bounds, strides, tallied, counts, registers, out):
    """All features of batch row `i`, given where their windows begin and end and what they hold."""
    ts = batch[i, B_TS]
    for f in range(codes.shape[0]):
        op, category, column, frame = codes[f, OP], codes[f, CATEGORY], codes[f, COLUMN], codes[f, FRAME]
        value = batch[i, B_VALUES + column] if column >= 0 else 0
        current = codes[f, CURRENT]
        low, high, stride, held = 0, 0, 0, 0
        if frame >= 0:
            low, high, stride = bounds[frame, 0], bounds[frame, 1], strides[frames[frame, F_ENTITY]]
        if codes[f, TALLY] >= 0:
            held = tallied[codes[f, TALLY]]
        if category == _EVENT:
            result = _of_event(op, value, ts, codes[f, WHOLE])
        elif category == _COMBINATION:
            result = _of_features(op, registers[codes[f, LEFT]], registers[codes[f, RIGHT]])
        elif category == _RECORDS:
            result = _of_records(op, arena, low, high, current, ts)
        elif category == _NUMBERS:
            result = _of_numbers(
                op,
                arena,
                low,
                high,
                stride,
                VALUES + column,
                held,
                value,
                current,
                params[f, TIMES],
                codes[f, WHOLE],
                ts,
            )
        elif category == _ABOVE:
            usual = registers[codes[f, LEFT]] * params[f, PER_UNIT]
            if codes[f, COUNTS]:
                most = np.int64(math.floor(params[f, TIMES] * usual))
                count, until, previous = 0, high, codes[f, PREVIOUS]
                if previous >= 0:
                    count, until = counts[previous], bounds[codes[previous, FRAME], 0]
                first = low + (VALUES + column) * stride
                count += _count_above(arena, first, until - low, most)
                counts[f] = count
                result = _of_counts(op, arena, low, high, first, value, current, most, count, ts)
            else:
                result = _largest_above(op, high - low + current, held, value, current, usual, params[f, PER_UNIT])
        else:
            result = _of_labels(
                op,
                arena,
                low,
                high,
                stride,
                codes[f, CARRIED],
                codes[f, AT_MOST],
                held,
                codes[f, WHOLE],
                codes[f, WHOLE + 1],
                params[f, EMPTY],
                ts,
            )
        if params[f, DIVISOR] != 1.0:  # a division takes longer than to see that there is none
            result /= params[f, DIVISOR]
        if math.isnan(result):
            result = value / params[f, PER_UNIT] if codes[f, OR_CURRENT] else params[f, EMPTY]
        registers[f] = result
        out[i, f] = result
