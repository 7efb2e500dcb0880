"""What goes to a server as bytes, of many keys at a time: words of its protocol, and what is remembered of events."""

from __future__ import annotations

from vigil.features.compiled.machine import compiled, entry

NUMBERS = 4  # column of a batch with the quanta of the first number
FRAMED = 24  # bytes that a word takes at most besides its own
# Columns of the table of logs: where in the bytes of all names a log's key begins, where in it the key of its entity,
# where both end; which entity of the domain it is, its bucket, version (0: it is not there), entries, and when its
# time was set anew.
NAME, RAW, NAME_END, ENTITY, BUCKET, VERSION, ENTRIES, REFRESHED, LOG_COLUMNS = range(9)
WAITS, KNOWN = ord("w"), ord("k")
HEAD, FIXED = 2, 14  # bytes of kind and label; of these, the time and how many features and numbers there are


@entry
def frames(blob, at, out, tail):
    """Writes words as the protocol (RESP) has them.

    Args:
        blob: uint8, with the words in it.
        at: int64 [n, 2], the first byte of each, and the one behind its last.
        out: uint8, with `FRAMED` bytes of room for each word besides its own.
        tail: first free byte of it.

    Returns:
        the first free byte after it.
    """
    for i in range(at.shape[0]):
        first, count = at[i, 0], at[i, 1] - at[i, 0]
        out[tail] = 36
        tail = _line_ends(out, _decimal(out, tail + 1, count))
        for j in range(count):
            out[tail + j] = blob[first + j]
        tail = _line_ends(out, tail + count)
    return tail


@entry
def remembered(
    which, batch, first, labels, features, logs, names, prefix, buckets, keys, key_at, values, value_at
):  # fmt: skip
    """Writes keys and values of what is remembered of events that have come.

    Args:
        which: int64 [m], their places in `batch`.
        batch: int64 [n, columns], as the kernel takes it.
        first: the column of the first entity's row.
        labels: int64 [n].
        features: float32 [n, F] as uint8 [n, 4 F].
        logs, names: the table of logs, and the bytes of all names.
        prefix: uint8, of all keys.
        buckets: int64 [n].
        keys, values: uint8, written.
        key_at, value_at: int64 [m, 2], written: where in these each begins and ends.
    """
    key_tail = value_tail = 0
    for n in range(which.shape[0]):
        i = which[n]
        key_at[n, 0], value_at[n, 0] = key_tail, value_tail
        key_tail = _event_key(keys, key_tail, prefix, buckets[i], batch[i, 0])
        values[value_tail], values[value_tail + 1] = KNOWN, labels[i] + 1
        value_tail = _little(values, value_tail + HEAD, batch[i, 1], 8)
        value_tail = _little(values, value_tail, features.shape[1] // 4, 2)
        value_tail = _little(values, value_tail, first - NUMBERS, 2)
        for j in range(features.shape[1]):
            values[value_tail + j] = features[i, j]
        value_tail += features.shape[1]
        for column in range(NUMBERS, first):
            value_tail = _little(values, value_tail, batch[i, column], 8)
        for column in range(first, batch.shape[1]):
            begin, end = logs[batch[i, column], RAW], logs[batch[i, column], NAME_END]
            value_tail = _little(values, value_tail, end - begin, 2)
            for j in range(end - begin):
                values[value_tail + j] = names[begin + j]
            value_tail += end - begin
        key_at[n, 1], value_at[n, 1] = key_tail, value_tail


@compiled
def _event_key(out, tail, prefix, bucket, key):
    for byte in prefix:
        out[tail] = byte
        tail += 1
    out[tail] = 123
    tail = _decimal(out, tail + 1, bucket)
    out[tail], out[tail + 1], out[tail + 2] = 125, 101, 58
    tail += 3
    for j in range(8):
        out[tail + j] = (key >> (56 - 8 * j)) & 255
    return tail + 8


@compiled
def _decimal(out, tail, number):
    digits, rest = 1, number // 10
    while rest:
        digits, rest = digits + 1, rest // 10
    for j in range(digits - 1, -1, -1):
        out[tail + j] = 48 + number % 10
        number //= 10
    return tail + digits


@compiled
def _little(out, tail, number, size):
    for j in range(size):
        out[tail + j] = (number >> (8 * j)) & 255
    return tail + size


@compiled
def _line_ends(out, tail):
    out[tail], out[tail + 1] = 13, 10
    return tail + 2
