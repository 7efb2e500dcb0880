"""The memory store: a domain's feature state in one process, and the verbs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.domains.schema import Feedback, Schema, key_of, keys_of
from vigil.domains.spec import Domain, quantise
from vigil.features import kernel
from vigil.features.history import History
from vigil.features.program import KEEP_MS, WIDTH, compile_features
from vigil.features.rows import Rows

CHUNK = 65_536  # rows of a history between two reports of progress
FEW = 32  # events that are packed one by one: arrays cost more than they save
NEVER = -(1 << 62)
LEAST_ROOM = 1 << 14  # records

Features = npt.NDArray[np.float32]
Status = npt.NDArray[np.uint8]
Journal = Callable[[npt.NDArray[np.int64], Sequence[tuple[int, str]]], None]


class MemoryStore:
    """Exact sliding windows over a domain's entities, idempotent by event id.

    An event seen again within the domain's `repeat_days` gets the very features of the first time and
    counts nothing; later (while its entities still hold its record) they are computed again, without
    counting. An event that comes late, but within `grace_days` of its entity's newest, sees what it
    would have seen in time and counts; a later one is answered from what is kept and not counted
    with that entity. Answers already given are never changed. Labels may come before their event.

    Args:
        domain: whose features these are.
        journal: called with every batch applied (rows as in :func:`kernel.process`, and the entities
            first seen in it as (entity, key)), before its features are returned.
    """

    remote = False  # its verbs wait for nobody
    problem = ""  # and always can be called

    def __init__(self, domain: Domain, journal: Journal | None = None) -> None:
        self.domain = domain
        self.schema = Schema(domain)
        self.journal = journal
        self._program = compile_features(domain)
        self._keys = [attrgetter(entity.name) for entity in domain.entities]
        self._entities = len(domain.entities)
        self._numbers = len(domain.numbers)
        self.columns = kernel.B_VALUES + self._numbers + self._entities
        self.rows = [Rows() for _ in domain.entities]
        self.new_keys: list[tuple[int, str]] = []
        self.marks: dict[str, int] = {}
        self.new_marks: dict[str, int] = {}
        self.count = 0
        self.meta = _fresh_meta(1024)
        self.arena = np.zeros(1 << 16, np.int64)
        self.ring = np.zeros((1 << 12, kernel.R_ROWS + self._entities), np.int64)
        self.table = np.full(1 << 13, -1, np.int32)
        self.features = np.zeros((1 << 12, len(domain.features)), np.float32)
        self.head = np.zeros(kernel.H_SIZE, np.int64)
        self.head[kernel.H_FREE :] = -1
        self.head[kernel.H_NEWEST] = 0
        self._registers = np.zeros(len(domain.features), np.float64)
        self._scratch = np.zeros(self._program.scratch, np.int64)

    def apply(self, events: Sequence[Any]) -> tuple[Features, Status]:
        """Features of live events, which then count for those after them.

        Args:
            events: of the domain's schema, in order of arrival.

        Returns:
            float32 [n, F], and uint8 [n]: NEW, LATE, TOO_LATE, REPEAT or RECOMPUTED of the kernel.

        Raises:
            InvalidEvent: for a value that cannot be; then no event of the batch has counted.
        """
        return self.run(self.pack(events))

    def watch(self, changed: Callable[[], object]) -> None:
        """Has `changed` called when `problem` has changed: never."""

    def mark(self, marks: Mapping[str, int]) -> None:
        """Says how far each of the sources has been read once the batch that comes next is applied.

        `marks` of the store holds the last word on each source. It is stored with the batch, so that
        whoever restores the state knows what is not in it.
        """
        self.marks.update(marks)
        self.new_marks.update(marks)

    def pack(self, events: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Events as rows for :meth:`run`, int64 [n, columns]; nothing counts before that.

        Raises:
            InvalidEvent: for a value that cannot be.
        """
        if len(events) < FEW:
            packed = [self.schema.row(event) for event in events]
            listed = [[*values[:2], 0, -1, *values[2:], *self._rows_of(keys)] for values, keys in packed]
            return np.array(listed, np.int64).reshape(len(events), self.columns)
        batch = np.empty((len(events), self.columns), np.int64)
        batch[:, [kernel.B_KEY, kernel.B_TS, *range(kernel.B_VALUES, kernel.B_VALUES + self._numbers)]] = (
            self.schema.columns(events)
        )
        batch[:, kernel.B_IS_LABEL], batch[:, kernel.B_LABEL] = 0, -1
        found = [rows.of(list(map(of_event, events))) for rows, of_event in zip(self.rows, self._keys, strict=True)]
        if min(rows.min() for rows in found) < 0:
            missing = np.flatnonzero(np.min(found, axis=0) < 0).tolist()
            for i, keys in [(i, self.schema.row(events[i])[1]) for i in missing]:
                for rows, row in zip(found, self._rows_of(keys), strict=True):
                    rows[i] = row
        for e, rows in enumerate(found):
            batch[:, kernel.B_VALUES + self._numbers + e] = rows
        return batch

    def feedback(self, labels: Iterable[Feedback]) -> Status:
        """Takes the true labels of events.

        Returns:
            uint8 [n]: LABELLED, LABEL_KNOWN (nothing new) or LABEL_WAITS (its event has not come yet).
        """
        rest = [0] * (self._numbers + self._entities)
        rows = [[key_of(item.event_id), 0, 1, item.label, *rest] for item in labels]
        return self.run(np.array(rows, np.int64))[1]

    def replay(self, history: History, progress: Callable[[int], None] | None = None) -> Features:
        """Point-in-time features of a whole history, whose events and labels then are this store's state.

        No feature looks at labels younger than the domain's label delay, so a label may enter with its event.

        Args:
            history: events in order of time.
            progress: called with the number of rows done.

        Returns:
            float32 [n, F].
        """
        batch = self.batch_of(history)
        out = np.empty((len(batch), len(self.domain.features)), np.float32)
        for start in range(0, len(batch), CHUNK):
            part = batch[start : start + CHUNK]
            self.run(part, out[start : start + CHUNK])
            if progress:
                progress(start + len(part))
        return out

    def batch_of(self, history: History) -> npt.NDArray[np.int64]:
        """A history as rows for the kernel, int64 [n, columns]."""
        batch = np.zeros((len(history.ts_ms), self.columns), np.int64)
        batch[:, kernel.B_KEY] = keys_of(history.event_ids.tolist())
        batch[:, kernel.B_TS] = history.ts_ms
        batch[:, kernel.B_LABEL] = history.labels
        for j, number in enumerate(self.domain.numbers):
            batch[:, kernel.B_VALUES + j] = quantise(history.numbers[number.name], number)
        for e, entity in enumerate(self.domain.entities):
            batch[:, kernel.B_VALUES + self._numbers + e] = self._rows_of_column(e, history.keys[entity.name])
        return batch

    def run(self, batch: npt.NDArray[np.int64], out: Features | None = None) -> tuple[Features, Status]:
        """Runs the kernel over rows whose entities are known, enlarging the state where it asks for it.

        Args:
            batch: as from :meth:`pack` or :meth:`batch_of`.
            out: float32 [n, F], where the features go; None: a new array.
        """
        if self.count > len(self.meta):
            self.meta = _enlarged(self.meta, _fresh_meta(max(self.count, 2 * len(self.meta))))
        p, n, i = self._program, len(batch), 0
        status = np.empty(n, np.uint8)
        if out is None:
            out = np.empty((n, len(self.domain.features)), np.float32)
        while True:
            i, need = kernel.process(
                p.codes, p.params, p.frames, p.tallies, p.carries, p.limits, p.reads, batch, i, n, out, status,
                self.meta, self.arena, self.table, self.ring, self.features, self.head, self._registers,
                self._scratch,
            )  # fmt: skip
            if need == kernel.DONE:
                break
            self._grow(need)
        if self.journal is not None:
            new_keys, self.new_keys = self.new_keys, []
            self.journal(batch, new_keys)
        return out, status

    def _rows_of_column(self, entity: int, keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if keys.dtype == np.int64:
            distinct, codes = np.unique(keys, return_inverse=True)
            return np.array([self._row_of(entity, str(key)) for key in distinct.tolist()], np.int64)[codes]
        listed = keys.tolist()  # sorting strings would take seconds
        rows = {key: self._row_of(entity, str(key)) for key in dict.fromkeys(listed)}
        return np.fromiter(map(rows.__getitem__, listed), np.int64, len(keys))

    def _rows_of(self, keys: Sequence[str]) -> list[int]:
        return [self._row_of(e, key) for e, key in enumerate(keys)]

    def _row_of(self, entity: int, key: str) -> int:
        row = self.rows[entity].get(key)
        if row is None:
            row = self.add_row(entity, key)
            if self.journal is not None:
                self.new_keys.append((entity, key))
        return row

    def add_row(self, entity: int, key: str) -> int:
        """Gives an entity that is new its row in the state."""
        row = self.rows[entity][key] = self.count
        self.count += 1
        return row

    def compacted(self) -> dict[str, npt.NDArray[Any]]:
        """The state's arrays without what its windows no longer see: what a snapshot holds."""
        meta = self.meta[: self.count]
        keep, widths = np.zeros(self.count, np.int64), np.zeros(self.count, np.int64)
        for e, rows in enumerate(self.rows):
            mine = np.fromiter(rows.values(), np.int64, len(rows))
            keep[mine], widths[mine] = self._program.limit(e, KEEP_MS), self._program.limit(e, WIDTH)
        cutoffs = meta[:, kernel.M_NEWEST] - keep
        new_meta = np.zeros_like(meta)
        room = int(((3 * meta[:, kernel.M_LENGTH] // 2 + 3) * widths + 16).sum())
        arena = np.zeros(room, np.int64)
        used = kernel.compact(meta, widths, self.arena, cutoffs, new_meta, arena)
        head = self.head.copy()
        head[kernel.H_TAIL], head[kernel.H_FREE :] = used, -1
        return {
            "meta": new_meta,
            "arena": arena[:used],
            "ring": self.ring,
            "features": self.features,
            "head": head,
        }

    def adopt(self, arrays: dict[str, npt.NDArray[Any]], rows: list[Rows]) -> None:
        """Takes over a copy of a state as :meth:`compacted` gave it, with room to go on.

        Args:
            arrays: by name.
            rows: of each entity, its row by key.
        """
        self.meta, self.ring, self.features, self.head = (
            arrays[n].copy() for n in ("meta", "ring", "features", "head")
        )
        self.arena = _roomier(arrays["arena"])
        self.rows = rows
        self.count = sum(map(len, rows))
        self._index()

    def _index(self) -> None:
        """Makes the table over the ring anew."""
        self.table = np.full(2 * len(self.ring), -1, np.int32)
        first, last = int(self.head[kernel.H_RING_HEAD]), int(self.head[kernel.H_RING_TAIL])
        kernel.index_ring(self.table, self.ring, first, last)

    def _grow(self, need: int) -> None:
        if need == kernel.GROW_ARENA:
            self.arena = _roomier(self.arena)
            return
        first, last = int(self.head[kernel.H_RING_HEAD]), int(self.head[kernel.H_RING_TAIL])
        if need == kernel.GROW_RING:
            sequence = np.arange(first, last)
            ring = np.zeros((2 * len(self.ring), self.ring.shape[1]), np.int64)
            ring[sequence & (len(ring) - 1)] = self.ring[sequence & (len(self.ring) - 1)]
            self.ring = ring
            self._index()
        else:
            sequence = np.arange(int(self.head[kernel.H_FEATURES_HEAD]), last)
            features = np.zeros((2 * len(self.features), self.features.shape[1]), np.float32)
            features[sequence & (len(features) - 1)] = self.features[sequence & (len(self.features) - 1)]
            self.features = features


def _roomier(arena: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # Zeroed memory takes no room before it is written to, and moving house stops the service: move seldom.
    larger = np.zeros(max(len(arena), 1 << 14) * 4, np.int64)
    larger[: len(arena)] = arena
    return larger


def _fresh_meta(rows: int) -> npt.NDArray[np.int64]:
    meta = np.zeros((rows, 5), np.int64)
    meta[:, kernel.M_NEWEST] = NEVER
    return meta


def _enlarged(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
    new[: len(old)] = old
    return new
