"""Where everything stands in the arrays that the kernel works on: columns, entries and codes.

State is plain memory. Every entity owns one contiguous segment of the arena with its records, sorted by time (ties in
order of arrival). A record is `(ts_ms, tag, numbers..., carried...)` in int64 words. The tag is the event's key with
its label in the two lowest bits. Within a segment each column stands together, so a window of one number is contiguous.
A ring with a hash table over it remembers events by key: their features for repeats, and their entities for labels.
"""

from __future__ import annotations

# What became of an event (0-4, 8) or a label (5-7).
NEW, LATE, TOO_LATE, REPEAT, RECOMPUTED, LABELLED, LABEL_KNOWN, LABEL_WAITS, CONFLICT = range(9)
# Columns of a batch row before its numbers, then the rows of its entities.
B_KEY, B_TS, B_IS_LABEL, B_LABEL, B_VALUES = range(5)
# Columns of an entity's row: its segment's first word and records of room, its first record and how many there are.
M_OFFSET, M_CAPACITY, M_START, M_LENGTH, M_NEWEST = range(5)
META_COLUMNS = 5
# Columns of the ring before the rows of the event's entities, behind which are the quanta of its numbers. A moment is
# ts_ms * 8, 4 where a label waits, label + 1.
R_KEY, R_MOMENT, R_ROWS = range(3)
WAITS = 4
# Entries of the head; free segments of size class k are chained from H_FREE + k.
H_TAIL, H_RING_HEAD, H_RING_TAIL, H_FEATURES_HEAD, H_NEWEST, H_SEED, H_FREE, H_SIZE = 0, 1, 2, 3, 4, 5, 8, 56
# What must be enlarged before the kernel can go on.
DONE, GROW_ARENA, GROW_RING, GROW_FEATURES = range(4)
# A record's columns before its numbers and carried features.
TS, TAG, VALUES = range(3)
# A tag's lowest bits: label + 1.
LABEL_BITS, GOOD, BAD = 3, 1, 2
NEVER = -(1 << 62)
ANY = (1 << 63) - 1
DAY_MS = 86_400_000
MILLIONTHS = 1_000_000.0

# A program is one int64 array: of each part its first word, rows and columns; then the parts.
CODES, PARAMS, FRAMES, TALLIES, CARRIES, LIMITS, READS, PARTS = range(8)
P_FIRST, P_ROWS, P_COLUMNS, P_HEAD = range(4)
# Columns of CODES. WHOLE is the first of the kind's own parameters, of which there are MOST_WHOLE at most.
(
    OP, CATEGORY, FRAME, COLUMN, CURRENT, OR_CURRENT, LEFT, RIGHT, CARRIED, AT_MOST, TALLY, COUNTS, PREVIOUS, WHOLE,
) = range(14)  # fmt: skip
MOST_WHOLE = 2
# Columns of PARAMS (float64): quanta in a unit of the feature's number, and those by which the result is divided.
TIMES, EMPTY, PER_UNIT, DIVISOR = range(4)
# Columns of FRAMES, the distinct windows.
F_ENTITY, F_DELAY_MS, F_WINDOW_MS = range(3)
# Columns of TALLIES. One of a longer window starts from that of a shorter one, T_PREVIOUS.
T_KIND, T_FRAME, T_COLUMN, T_AT_MOST, T_PREVIOUS = range(5)
# Entries of LIMITS before those of each entity, and the entries of an entity.
ENTITIES, NUMBERS, GRACE_MS, FEEDBACK_MS, REPEAT_MS, MOST_REMEMBERED, MOST_REPEATS, PER_ENTITY = range(8)
KEEP_MS, MOST_RECORDS, WIDTH, AN_ENTITY = range(4)

# A log's entry is a record and a mark; the mark's lowest bit says what it is.
RECORD, RELABEL = 0, 1
