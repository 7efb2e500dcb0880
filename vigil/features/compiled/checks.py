"""Checks numbers from files before compiled code uses them as indices: it does not check them itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.features.compiled.layout import (
    B_IS_LABEL,
    B_LABEL,
    H_FEATURES_HEAD,
    H_FREE,
    H_RING_HEAD,
    H_RING_TAIL,
    H_SIZE,
    H_TAIL,
    M_CAPACITY,
    M_LENGTH,
    M_OFFSET,
    M_START,
    META_COLUMNS,
    R_MOMENT,
    R_ROWS,
    WAITS,
)

Words = npt.NDArray[np.int64]
Owners = npt.NDArray[np.uint8]
_BLOCK = 1 << 16  # entries of the ring that are copied at once


def find_batch_fault(batch: Words, first: int, owners: Owners) -> str:
    """What is wrong with rows for the kernel; "" where nothing is.

    Args:
        batch: int64 [n, columns], events and labels.
        first: the column of the first entity's row.
        owners: uint8 [rows], which entity of the domain each row of the state is.
    """
    labels, given = batch[:, B_IS_LABEL], batch[:, B_LABEL]
    if ((labels != 0) & (labels != 1)).any() or (given < -1).any() or (given > 1).any():
        return "a label that cannot be"
    return _find_row_fault(batch[labels == 0, first:], owners)


def find_state_fault(
    arrays: Mapping[str, npt.NDArray[Any]], owners: Owners, widths: Words, numbers: int, features: int
) -> str:
    """What is wrong with the arrays of a whole state, as `KernelState.compacted` gives them; "" where nothing is.

    Args:
        arrays: by name.
        owners: uint8 [rows], which entity of the domain each row of the state is.
        widths: int64 [E], words of a record of each entity.
        numbers, features: how many the domain has.
    """
    shapes = {
        "meta": ("<i8", (len(owners), META_COLUMNS)),
        "arena": ("<i8", (None,)),
        "ring": ("<i8", (None, R_ROWS + len(widths) + numbers)),
        "features": ("<f4", (None, features)),
        "head": ("<i8", (H_SIZE,)),
    }
    if set(arrays) != set(shapes):
        return f"arrays {sorted(arrays)}, wanted {sorted(shapes)}"
    for name, (kind, shape) in shapes.items():
        array = arrays[name]
        fits = len(shape) == array.ndim and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
        if array.dtype != np.dtype(kind) or not fits:
            return f"{name} is {array.dtype.str} {array.shape}"
    meta, arena, ring, head = (arrays[name] for name in ("meta", "arena", "ring", "head"))
    return (
        _find_meta_fault(meta, len(arena), widths[owners])
        or _find_head_fault(head, len(arena), len(ring), len(arrays["features"]))
        or _find_ring_fault(ring, int(head[H_RING_HEAD]), int(head[H_RING_TAIL]), owners, len(widths))
    )


def _find_row_fault(rows: Words, owners: Owners) -> str:
    if not rows.size:
        return ""
    if rows.min() < 0 or rows.max() >= len(owners):
        return f"an entity in row {rows.min() if rows.min() < 0 else rows.max()} of {len(owners)}"
    if (owners[rows] != np.arange(rows.shape[1])).any():
        return "an entity in the row of another"
    return ""


def _find_meta_fault(meta: Words, words: int, widths: Words) -> str:
    offset, capacity, start, length = (meta[:, column] for column in (M_OFFSET, M_CAPACITY, M_START, M_LENGTH))
    for column in offset, capacity, start, length:
        if ((column < 0) | (column > words)).any():  # none of the sums below overflows then
            return "a segment outside its arena"
    if (start + length > capacity).any() or (offset + capacity * widths > words).any():
        return "a segment outside its arena"
    return ""


def _find_head_fault(head: Words, words: int, ring: int, features: int) -> str:
    first, kept, last = int(head[H_RING_HEAD]), int(head[H_FEATURES_HEAD]), int(head[H_RING_TAIL])
    if any(size & (size - 1) or not size for size in (ring, features)):
        return "a ring whose size is no power of two"
    if head[H_TAIL] != words or (head[H_FREE:] != -1).any():
        return "an arena of another size"
    if not 0 <= first <= kept <= last <= first + ring or last > kept + features:
        return "a ring with more than it can hold"
    return ""


def _find_ring_fault(ring: Words, first: int, last: int, owners: Owners, entities: int) -> str:
    for start in range(first, last, _BLOCK):
        held = ring[np.arange(start, min(start + _BLOCK, last)) & (len(ring) - 1)]
        if fault := _find_row_fault(held[held[:, R_MOMENT] & WAITS == 0, R_ROWS : R_ROWS + entities], owners):
            return fault
    return ""
