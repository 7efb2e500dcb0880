"""The memory store: a domain's feature state in one process, and the verbs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.domains.schema import Feedback, Schema, key_of, keys_of
from vigil.domains.spec import Domain, quantise
from vigil.domains.times import ANY_TIME, Times
from vigil.errors import Conflict, DataError, Unavailable
from vigil.features.compiled.conflicts import conflict
from vigil.features.compiled.layout import B_IS_LABEL, B_KEY, B_LABEL, B_TS, B_VALUES, CONFLICT
from vigil.features.compiled.state import Event, Features, KernelState, Status
from vigil.features.history import History
from vigil.features.memory.row_index import RowIndex

CHUNK = 65_536  # rows of a history between two reports of progress
FEW = 32  # events that are packed one by one: arrays cost more than they save

Journal = Callable[[npt.NDArray[np.int64], Sequence[tuple[int, str]]], None]


class MemoryStore:
    """Exact sliding windows over a domain's entities, idempotent by event id.

    An event seen again within the domain's `repeat_days` gets the very features of the first time and
    counts nothing; later (while its entities still hold its record) they are computed again, without
    counting. With another content it is a CONFLICT: it has no features and counts nothing. An event that
    comes late, but within `grace_days` of its entity's newest, sees what it would have seen in time and
    counts; a later one is answered from what is kept and not counted with that entity. Answers already
    given are never changed. Labels may come before their event.

    Args:
        domain: whose features these are.
        journal: called with every batch (rows as in `kernel.process`, and the entities first seen in it or
            before it as (entity, key)) before it counts. Where it raises Unavailable, the batch does not count.
    """

    remote = False  # its verbs wait for nobody

    def __init__(self, domain: Domain, journal: Journal | None = None) -> None:
        self.domain = domain
        self.journal = journal
        self.problem = ""
        """Why nothing can count now, as its journal says; "" where it can."""
        self.changed: Callable[[], object] = lambda: None
        self.state = KernelState(domain)
        self.schema = Schema(domain, self.state.seed)
        self._keys = [attrgetter(entity.name) for entity in domain.entities]
        self._entities = len(domain.entities)
        self._numbers = len(domain.numbers)
        self.columns = self.state.columns
        self.rows = [RowIndex() for _ in domain.entities]
        self.new_keys: list[tuple[int, str]] = []
        self.marks: dict[str, int] = {}
        self.new_marks: dict[str, int] = {}
        self.count = 0

    def apply_events(self, events: Sequence[Any]) -> tuple[Features, Status]:
        """Features of live events, which then count for those after them.

        Args:
            events: of the domain's schema, in order of arrival.

        Returns:
            float32 [n, F], and uint8 [n]: NEW, LATE, TOO_LATE, REPEAT, RECOMPUTED or CONFLICT of the kernel.

        Raises:
            InvalidEvent: for a value that cannot be; then no event of the batch has counted.
        """
        return self.apply(self.pack(events))

    @property
    def seed(self) -> int:
        """Of the hash that makes events' keys, 64 bits. Set it before the first event."""
        return self.state.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.state.seed = self.schema.seed = seed

    @property
    def newest_ms(self) -> int:
        """The time of the newest event that has counted; 0: there is none."""
        return self.state.newest_event_ms

    def watch(self, changed: Callable[[], object]) -> None:
        """Has `changed` called, in any thread, when `problem` has changed."""
        self.changed = changed

    def mark(self, marks: Mapping[str, int]) -> None:
        """Says how far each of the sources has been read once the batch that comes next is applied.

        `marks` of the store holds the last word on each source. It is stored with the batch, so that
        whoever restores the state knows what is not in it.
        """
        self.marks.update(marks)
        self.new_marks.update(marks)

    def pack(self, events: Sequence[Any], times: Times = ANY_TIME) -> npt.NDArray[np.int64]:
        """Events as rows for `apply`, int64 [n, columns]; nothing counts before that.

        Args:
            events: of the domain's schema.
            times: between which they may lie.

        Raises:
            InvalidEvent: for a value that cannot be.
            Unavailable: where nothing can count now; no entity has got a row then.
        """
        if self.problem:
            for event in events:
                self.schema.row(event, "", times)
            raise Unavailable(self.problem)
        if len(events) < FEW:
            packed = [self.schema.row(event, "", times) for event in events]
            listed = [[*values[:2], 0, -1, *values[2:], *self._rows_of(keys)] for values, keys in packed]
            return np.array(listed, np.int64).reshape(len(events), self.columns)
        batch = np.empty((len(events), self.columns), np.int64)
        batch[:, [B_KEY, B_TS, *range(B_VALUES, B_VALUES + self._numbers)]] = self.schema.columns(events, times)
        batch[:, B_IS_LABEL], batch[:, B_LABEL] = 0, -1
        found = [rows.of(list(map(of_event, events))) for rows, of_event in zip(self.rows, self._keys, strict=True)]
        if min(rows.min() for rows in found) < 0:
            missing = np.flatnonzero(np.min(found, axis=0) < 0).tolist()
            for i, keys in [(i, self.schema.row(events[i])[1]) for i in missing]:
                for rows, row in zip(found, self._rows_of(keys), strict=True):
                    rows[i] = row
        for e, rows in enumerate(found):
            batch[:, B_VALUES + self._numbers + e] = rows
        return batch

    def feedback(self, labels: Iterable[Feedback]) -> Status:
        """Takes the true labels of events.

        Returns:
            uint8 [n]: LABELLED, LABEL_KNOWN (nothing new) or LABEL_WAITS (its event has not come yet).
        """
        rest = [0] * (self._numbers + self._entities)
        rows = [[key_of(item.event_id, self.schema.seed), 0, 1, item.label, *rest] for item in labels]
        return self.apply(np.array(rows, np.int64))[1]

    def replay(self, history: History, progress: Callable[[int], None] | None = None) -> Features:
        """Point-in-time features of a whole history, whose events and labels then are this store's state.

        No feature looks at labels younger than the domain's label delay, so a label may enter with its event.

        Args:
            history: events in order of time.
            progress: called with the number of rows done.

        Returns:
            float32 [n, F].

        Raises:
            DataError: for an id that two events of different content have.
        """
        batch = self.batch_of(history)
        out = np.empty((len(batch), len(self.domain.features)), np.float32)
        for start in range(0, len(batch), CHUNK):
            part = batch[start : start + CHUNK]
            _, status = self.apply(part, out[start : start + CHUNK])
            if len(clashes := np.flatnonzero(status == CONFLICT)):
                place = int(clashes[0])
                told = self.conflict(part, place, history.event_ids[start + place])
                raise DataError(f"row {start + place + 1} of the history, in order of time: {told}")
            if progress:
                progress(start + len(part))
        return out

    def batch_of(self, history: History) -> npt.NDArray[np.int64]:
        """A history as rows for the kernel, int64 [n, columns]."""
        batch = np.zeros((len(history.ts_ms), self.columns), np.int64)
        batch[:, B_KEY] = keys_of(history.event_ids.tolist(), self.schema.seed)
        batch[:, B_TS] = history.ts_ms
        batch[:, B_LABEL] = history.labels
        for j, number in enumerate(self.domain.numbers):
            batch[:, B_VALUES + j] = quantise(history.numbers[number.name], number)
        for e, entity in enumerate(self.domain.entities):
            batch[:, B_VALUES + self._numbers + e] = self._rows_of_column(e, history.keys[entity.name])
        return batch

    def remembers(self, event_ids: Sequence[str | int]) -> list[bool]:
        """Whether each of these events has come and can still be told by its id."""
        found = (self.state.recall(key_of(event_id, self.seed)) for event_id in event_ids)
        return [event is not None and event.ts_ms is not None for event in found]

    def conflict(self, batch: npt.NDArray[np.int64], place: int, event_id: str | int, at: str = "") -> Conflict:
        """What is to be said of an event of a batch that is a CONFLICT.

        Args:
            batch: as `apply` was given it.
            place: of the event in it.
            event_id: as it came.
            at: where it stood, as in InvalidEvent.
        """
        row = batch[place].tolist()
        now = Event(row[B_KEY], -1, row[B_TS], rows=row[self.state.first :], quanta=row[B_VALUES : self.state.first])
        return conflict(self.domain, event_id, self.state.recall(now.key), now, at)

    def apply(self, batch: npt.NDArray[np.int64], out: Features | None = None) -> tuple[Features, Status]:
        """Runs the kernel over rows whose entities are known, enlarging the state where it asks for it.

        Args:
            batch: as from `pack` or `batch_of`.
            out: float32 [n, F], where the features go; None: a new array.

        Raises:
            Unavailable: where the journal cannot be written; then nothing of the batch has counted.
        """
        self.state.reserve(self.count)
        if self.journal is not None:
            self.journal(batch, self.new_keys)
            self.new_keys = []
        return self.state.run(batch, out)

    def _rows_of_column(self, entity: int, keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if keys.dtype == np.int64:
            distinct, codes = np.unique(keys, return_inverse=True)
            return np.array([self.row_of(entity, str(key)) for key in distinct.tolist()], np.int64)[codes]
        listed = keys.tolist()  # sorting strings would take seconds
        rows = {key: self.row_of(entity, str(key)) for key in dict.fromkeys(listed)}
        return np.fromiter(map(rows.__getitem__, listed), np.int64, len(keys))

    def _rows_of(self, keys: Sequence[str]) -> list[int]:
        return [self.row_of(e, key) for e, key in enumerate(keys)]

    def row_of(self, entity: int, key: str) -> int:
        """The row of an entity in the state; one that is new gets one."""
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
        entities = np.zeros(self.count, np.int64)
        for e, rows in enumerate(self.rows):
            entities[np.fromiter(rows.values(), np.int64, len(rows))] = e
        return self.state.compacted(entities)

    def adopt(self, arrays: dict[str, npt.NDArray[Any]], rows: list[RowIndex]) -> None:
        """Takes over a copy of a state as `compacted` gave it, with room to go on.

        Args:
            arrays: by name.
            rows: of each entity, its row by key.
        """
        self.state.adopt(arrays)
        self.schema.seed = self.state.seed
        self.rows = rows
        self.count = sum(map(len, rows))
