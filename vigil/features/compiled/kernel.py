"""The one kernel that turns events into features, live and over history alike.

`layout.py` says where everything stands, `ring.py` remembers events, `segments.py` keeps records and `windows.py`
computes. What events to come will look at is fetched ahead: waiting for memory would otherwise take most of the time.
"""

from __future__ import annotations

import numpy as np

from vigil.features.compiled.layout import (
    AN_ENTITY,
    B_IS_LABEL,
    B_KEY,
    B_LABEL,
    B_TS,
    B_VALUES,
    CARRIES,
    CODES,
    CONFLICT,
    DONE,
    ENTITIES,
    FRAMES,
    GRACE_MS,
    GROW_ARENA,
    H_NEWEST,
    KEEP_MS,
    LABEL_BITS,
    LABEL_KNOWN,
    LABEL_WAITS,
    LABELLED,
    LATE,
    LIMITS,
    M_CAPACITY,
    M_LENGTH,
    M_NEWEST,
    M_OFFSET,
    M_START,
    MILLIONTHS,
    MOST_RECORDS,
    NEW,
    NUMBERS,
    P_COLUMNS,
    P_FIRST,
    P_HEAD,
    P_ROWS,
    PARAMS,
    PER_ENTITY,
    R_KEY,
    R_MOMENT,
    R_ROWS,
    READS,
    RECOMPUTED,
    REPEAT,
    TAG,
    TALLIES,
    TOO_LATE,
    TS,
    VALUES,
    WAITS,
    WIDTH,
)
from vigil.features.compiled.machine import compiled, entry, intrinsic
from vigil.features.compiled.ring import append, find, has_features, home
from vigil.features.compiled.ring import make_room as make_room_in_ring
from vigil.features.compiled.segments import after, insert, make_room, record
from vigil.features.compiled.windows import compute, find_frames, tally

# Of the segments' words, those of one line of the cache.
LINE = 8
# RowIndex of a batch by which what they need is fetched ahead: first where it stands, then itself.
FAR, NEAR = 16, 6


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
def _fetch_ahead(limits, reads, batch, i, meta, arena, table, ring):
    """Starts to bring into the cache what rows some way ahead will look at; what it fetches decides nothing."""
    entities, rows, n = limits[ENTITIES], B_VALUES + limits[NUMBERS], batch.shape[0]
    mask = table.shape[0] - 1
    if i + FAR < n:
        _fetch(table, home(batch[i + FAR, B_KEY], mask))
        for entity in range(entities):
            _fetch(meta, batch[i + FAR, rows + entity] * meta.shape[1])
    if i + NEAR >= n:
        return
    slot = table[home(batch[i + NEAR, B_KEY], mask)]
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
def _write_record(meta, row, width, arena, at, batch, i, numbers, label, carries, registers):
    """Writes the event's record at position `at` of its entity's segment."""
    stride = meta[row, M_CAPACITY]
    arena[at + TS * stride] = batch[i, B_TS]
    arena[at + TAG * stride] = (batch[i, B_KEY] & ~LABEL_BITS) | (label + 1)
    for j in range(numbers):
        arena[at + (VALUES + j) * stride] = batch[i, B_VALUES + j]
    for j in range(width - VALUES - numbers):
        carried = np.rint(min(max(registers[carries[j]], -9e11), 9e11) * MILLIONTHS)
        arena[at + (VALUES + numbers + j) * stride] = np.int64(carried)
    meta[row, M_NEWEST] = max(meta[row, M_NEWEST], batch[i, B_TS])


@compiled
def _apply_label(limits, batch, i, meta, arena, table, ring, head):
    """Gives an event its label; one that is not known (yet) gets a place where the label waits for it."""
    key, label = batch[i, B_KEY], batch[i, B_LABEL]
    at = find(table, ring, key)
    if at < 0:
        slot = append(table, ring, head, at)
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
        j = record(arena, low, after(arena, low, low + meta[row, M_LENGTH], ts) - 1, stride, ts, key)
        if j >= 0:
            arena[j + TAG * stride] = (key & ~LABEL_BITS) | (label + 1)
    return LABELLED


@compiled
def _differs(limits, batch, i, ring, slot):
    """Whether an event comes with another content than the one remembered by its key."""
    entities, numbers = limits[ENTITIES], limits[NUMBERS]
    differs = ring[slot, R_MOMENT] >> 3 != batch[i, B_TS]
    for entity in range(entities):
        differs = differs or ring[slot, R_ROWS + entity] != batch[i, B_VALUES + numbers + entity]
    for j in range(numbers):
        differs = differs or ring[slot, R_ROWS + entities + j] != batch[i, B_VALUES + j]
    return differs


@compiled
def _part(program, which):
    """Where a part of a program begins and ends, and its rows and columns."""
    at = which * P_HEAD
    first, rows, columns = program[at + P_FIRST], program[at + P_ROWS], program[at + P_COLUMNS]
    return first, first + rows * columns, rows, columns


@entry
def process(program, batch, i, out, status, meta, arena, table, ring, features, head, scratch):
    """Applies the rows of a batch in order, from `i` on.

    Args:
        program: int64, the domain's features (see `program.py`).
        batch: int64 [n, 4 + numbers + entities]: key, ts_ms, is-a-label, label (-1: none), quanta, entity rows.
        out: float32 [n, F], written for events.
        status: uint8 [n], written: what became of the row.
        meta, arena, table, ring, features, head: the state.
        scratch: int64 [4 E + 2 W + T + 2 F], overwritten.

    Returns:
        `(n, DONE)`, or the row that needs a part of the state enlarged first, and which; that row has changed nothing.
    """
    first, end, rows, columns = _part(program, CODES)
    codes = program[first:end].reshape(rows, columns)
    first, end, rows, columns = _part(program, PARAMS)
    params = program[first:end].view(np.float64).reshape(rows, columns)
    first, end, rows, columns = _part(program, FRAMES)
    frames = program[first:end].reshape(rows, columns)
    first, end, rows, columns = _part(program, TALLIES)
    tallies = program[first:end].reshape(rows, columns)
    first, end, rows, columns = _part(program, CARRIES)
    carries = program[first:end].reshape(rows, columns)
    first, end, rows, columns = _part(program, READS)
    reads = program[first:end].reshape(rows, columns)
    first, end, rows, columns = _part(program, LIMITS)
    limits = program[first:end]
    entities, numbers = limits[ENTITIES], limits[NUMBERS]
    floors, lows = scratch[:entities], scratch[entities : 2 * entities]
    highs, strides = scratch[2 * entities : 3 * entities], scratch[3 * entities : 4 * entities]
    at = 4 * entities + 2 * frames.shape[0]
    bounds = scratch[4 * entities : at].reshape(frames.shape[0], 2)
    tallied, at = scratch[at : at + tallies.shape[0]], at + tallies.shape[0]
    counts, registers = scratch[at : at + codes.shape[0]], scratch[at + codes.shape[0] :].view(np.float64)
    while i < batch.shape[0]:
        need = make_room_in_ring(limits, table, ring, features, head)
        if need != DONE:
            return i, need
        _fetch_ahead(limits, reads, batch, i, meta, arena, table, ring)
        if batch[i, B_IS_LABEL] == 1:
            status[i] = _apply_label(limits, batch, i, meta, arena, table, ring, head)
            i += 1
            continue
        key, ts = batch[i, B_KEY], batch[i, B_TS]
        at = find(table, ring, key)
        known = at >= 0 and not ring[table[at], R_MOMENT] & WAITS
        if known and _differs(limits, batch, i, ring, table[at]):
            out[i, :] = 0.0
            status[i] = CONFLICT
            i += 1
            continue
        if known and has_features(ring, head, table[at]):
            for f in range(codes.shape[0]):
                out[i, f] = features[table[at] & (features.shape[0] - 1), f]
            status[i] = REPEAT
            i += 1
            continue
        outcome, held, lacking, clash = NEW, 0, False, False
        for entity in range(entities):
            row, limit = batch[i, B_VALUES + numbers + entity], PER_ENTITY + AN_ENTITY * entity
            cutoff = max(ts, meta[row, M_NEWEST]) - limits[limit + KEEP_MS]
            if not make_room(meta, row, limits[limit + WIDTH], arena, head, cutoff):
                return i, GROW_ARENA
        for entity in range(entities):
            row = batch[i, B_VALUES + numbers + entity]
            newest = max(ts, meta[row, M_NEWEST])
            floors[entity] = newest - limits[PER_ENTITY + AN_ENTITY * entity + KEEP_MS]
            lows[entity], strides[entity] = meta[row, M_OFFSET] + meta[row, M_START], meta[row, M_CAPACITY]
            end = lows[entity] + meta[row, M_LENGTH]
            highs[entity] = after(arena, lows[entity], end, ts)
            if ts <= newest - limits[GRACE_MS]:
                outcome = max(outcome, TOO_LATE)
            elif highs[entity] < end:
                outcome = max(outcome, LATE)
            counted = record(arena, lows[entity], highs[entity] - 1, strides[entity], ts, key)
            if counted >= 0:  # but no longer remembered
                held |= 1 << entity
                for j in range(numbers):
                    clash = clash or arena[counted + (VALUES + j) * strides[entity]] != batch[i, B_VALUES + j]
                highs[entity] = counted
            elif ts > meta[row, M_NEWEST] - limits[GRACE_MS]:
                lacking = True
        find_frames(frames, floors, lows, highs, arena, ts, bounds)
        tally(tallies, frames, bounds, strides, arena, tallied)
        compute(codes, params, frames, batch, i, arena, bounds, strides, tallied, counts, registers, out)
        if clash:
            out[i, :] = 0.0
            status[i] = CONFLICT
            i += 1
            continue
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
            slot = append(table, ring, head, at)
        ring[slot, R_KEY], ring[slot, R_MOMENT] = key, (ts << 3) | (label + 1)
        if has_features(ring, head, slot):
            for f in range(codes.shape[0]):
                features[slot & (features.shape[0] - 1), f] = out[i, f]
        for j in range(numbers):
            ring[slot, R_ROWS + entities + j] = batch[i, B_VALUES + j]
        for entity in range(entities):
            row, limit = batch[i, B_VALUES + numbers + entity], PER_ENTITY + AN_ENTITY * entity
            ring[slot, R_ROWS + entity] = row
            if not (held >> entity) & 1 and ts > meta[row, M_NEWEST] - limits[GRACE_MS]:
                width = limits[limit + WIDTH]
                if insert(meta, row, width, arena, highs[entity], limits[limit + MOST_RECORDS]):
                    _write_record(
                        meta, row, width, arena, highs[entity], batch, i, numbers, label, carries[entity], registers
                    )
        status[i] = outcome
        i += 1
    return i, DONE
