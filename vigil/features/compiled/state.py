"""The state the kernel works on, and its only owner: nobody else knows how the arrays are laid out."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vigil.domains.spec import Domain
from vigil.features.compiled import kernel, ring, segments
from vigil.features.compiled.layout import (
    B_VALUES,
    DONE,
    GROW_ARENA,
    GROW_RING,
    H_FEATURES_HEAD,
    H_FREE,
    H_NEWEST,
    H_RING_HEAD,
    H_RING_TAIL,
    H_SEED,
    H_SIZE,
    H_TAIL,
    LABEL_BITS,
    M_CAPACITY,
    M_LENGTH,
    M_NEWEST,
    M_OFFSET,
    M_START,
    META_COLUMNS,
    NEVER,
    R_KEY,
    R_MOMENT,
    R_ROWS,
    TAG,
    WAITS,
)
from vigil.features.compiled.program import compile_features

Words = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
Status = npt.NDArray[np.uint8]
_NO_FEATURES = np.empty(0, np.float32)
_LEAST_RING = 16


class Event(NamedTuple):
    """What the state remembers of an event.

    Attributes:
        key: 64 bits of its id.
        label: 1, 0 or -1 for none.
        ts_ms: of the event; None where only its label has come.
        features: float32 [F] as they were answered; empty where they are not kept any more.
        rows: of its entities.
        quanta: of its numbers.
    """

    key: int
    label: int
    ts_ms: int | None = None
    features: Features = _NO_FEATURES
    rows: Sequence[int] = ()
    quanta: Sequence[int] = ()

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with its content, of this process's rows."""
        content = np.array([self.ts_ms or 0, *self.rows, *self.quanta], np.int64)
        return blake2b(content.tobytes(), digest_size=8).hexdigest()


class KernelState:
    """The arrays of one domain's state. Entities are rows, numbered from 0 as `reserve` has made room for them.

    Args:
        domain: whose features the kernel computes.
    """

    def __init__(self, domain: Domain) -> None:
        self.program = compile_features(domain)
        self.entities, self._width = len(domain.entities), len(domain.features)
        self._numbers = len(domain.numbers)
        self.first = B_VALUES + self._numbers
        """The column of a batch with the first entity's row."""
        self.columns = self.first + self.entities
        """Columns of a batch."""
        self._meta = _fresh_meta(1024)
        self._arena = np.zeros(1 << 16, np.int64)
        self._ring, self._features = self._empty_ring(1 << 12)
        self._table = np.full(1 << 13, -1, np.int32)
        self._head = np.zeros(H_SIZE, np.int64)
        self._head[H_FREE:] = -1
        self.seed = secrets.randbits(63)
        self._scratch = np.zeros(self.program.scratch, np.int64)

    def run(self, batch: Words, out: Features | None = None) -> tuple[Features, Status]:
        """Runs the kernel over rows whose entities have room, enlarging the state where it asks for it.

        Args:
            batch: int64 [n, columns], as `kernel.process` takes it.
            out: float32 [n, F], where the features go; None: a new array.

        Returns:
            `out`, and uint8 [n]: what became of each row.
        """
        i, status = 0, np.empty(len(batch), np.uint8)
        if out is None:
            out = np.empty((len(batch), self._width), np.float32)
        while True:
            i, need = kernel.process(
                self.program.words, batch, i, out, status,
                self._meta, self._arena, self._table, self._ring, self._features, self._head, self._scratch,
            )  # fmt: skip
            if need == DONE:
                return out, status
            self._grow(need)

    def reserve(self, rows: int) -> None:
        """Makes room for so many entities."""
        if rows > len(self._meta):
            larger = _fresh_meta(max(rows, 2 * len(self._meta)))
            larger[: len(self._meta)] = self._meta
            self._meta = larger

    @property
    def seed(self) -> int:
        """Of the hash that makes events' keys, 63 bits, known to who holds the state alone."""
        return int(self._head[H_SEED]) & ((1 << 64) - 1)

    @seed.setter
    def seed(self, seed: int) -> None:
        self._head[H_SEED] = np.uint64(seed).astype(np.int64)

    @property
    def newest_event_ms(self) -> int:
        """The time of the newest event; 0: there is none."""
        return int(self._head[H_NEWEST])

    @property
    def words(self) -> int:
        """Words of the arena that are in use."""
        return int(self._head[H_TAIL])

    @property
    def remembered(self) -> int:
        """How many events are remembered."""
        return int(self._head[H_RING_TAIL] - self._head[H_RING_HEAD])

    @property
    def memory(self) -> dict[str, int]:
        """Bytes in use of the arrays: entities (with their records), events, features."""
        rows = int(np.count_nonzero(self._meta[:, M_CAPACITY]))
        return {
            "entities": 8 * META_COLUMNS * rows + 8 * self.words,
            "events": self._ring.nbytes + self._table.nbytes,
            "features": self._features.nbytes,
        }

    def newest_ms(self, rows: Words) -> Words:
        """The time of each row's newest record, int64 [n]."""
        found: Words = self._meta[rows, M_NEWEST]
        return found

    def counts(self, rows: Words) -> Words:
        """How many records each row has, int64 [n]."""
        found: Words = self._meta[rows, M_LENGTH]
        return found

    # --- whole states ---

    def compacted(self, entities: Words) -> dict[str, npt.NDArray[Any]]:
        """The arrays without what windows no longer see: what a snapshot holds.

        Args:
            entities: int64 [rows], which entity of the domain each row is.
        """
        meta, widths = self._meta[: len(entities)], self.program.widths[entities]
        cutoffs = meta[:, M_NEWEST] - self.program.keep_ms[entities]
        new_meta = np.zeros_like(meta)
        arena = np.zeros(int(((3 * meta[:, M_LENGTH] // 2 + 3) * widths + 16).sum()), np.int64)
        used = segments.compact(meta, widths, self._arena, cutoffs, new_meta, arena)
        head = self._head.copy()
        head[H_TAIL], head[H_FREE:] = used, -1
        return {"meta": new_meta, "arena": arena[:used], "ring": self._ring, "features": self._features, "head": head}

    def adopt(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Takes over a copy of what `compacted` gave, with room to go on."""
        self._meta, self._ring, self._features, self._head = (
            arrays[name].copy() for name in ("meta", "ring", "features", "head")
        )
        self._arena = _roomier(arrays["arena"])
        self._index()

    # --- remembered events ---

    def remember(self, events: Sequence[Event], newest_ms: int, room: int = 0) -> None:
        """Remembers these events and no others.

        Args:
            events: those without features first, as these are forgotten first.
            newest_ms: the time of the newest event; that of labels that wait.
            room: how many more can be remembered before any array is enlarged.
        """
        size = _LEAST_RING
        while size <= len(events) + room:
            size *= 2
        self._ring, self._features = self._empty_ring(size)
        without = 0
        for slot, event in enumerate(events):
            waits = event.ts_ms is None
            moment = (newest_ms if event.ts_ms is None else event.ts_ms) << 3 | (WAITS if waits else 0)
            self._ring[slot, R_KEY], self._ring[slot, R_MOMENT] = event.key, moment | event.label + 1
            self._ring[slot, R_ROWS : R_ROWS + len(event.rows)] = event.rows
            self._ring[slot, R_ROWS + self.entities : R_ROWS + self.entities + len(event.quanta)] = event.quanta
            if len(event.features):
                self._features[slot] = event.features
            elif not waits:
                without = slot + 1
        self._head[H_RING_HEAD], self._head[H_RING_TAIL] = 0, len(events)
        self._head[H_FEATURES_HEAD], self._head[H_NEWEST] = without, newest_ms
        self._index()

    def events(self) -> Iterator[Event]:
        """All that are remembered, oldest first."""
        for sequence in range(int(self._head[H_RING_HEAD]), int(self._head[H_RING_TAIL])):
            yield self._event(sequence & (len(self._ring) - 1), sequence >= self._head[H_FEATURES_HEAD])

    def recall(self, key: int) -> Event | None:
        """What is remembered of an event by its key, without its features; None where nothing is."""
        slot = ring.locate(self._table, self._ring, key)
        return None if slot < 0 else self._event(slot, False)

    def _event(self, slot: int, kept: bool) -> Event:
        key, moment, *content = self._ring[slot].tolist()
        if moment & WAITS:
            return Event(key, label_of(moment))
        features = self._features[slot & (len(self._features) - 1)].copy() if kept else _NO_FEATURES
        return Event(key, label_of(moment), moment >> 3, features, content[: self.entities], content[self.entities :])

    # --- records of entities ---

    def run_logs(self, words: Words, starts: Words, counts: Words, entities: Words, rows: Words) -> None:
        """Runs logs of entities into their rows, after what these hold; `segments.run_logs` says how.

        Args:
            words: int64, all logs one after the other.
            starts, counts: int64 [n], first word and number of entries of each.
            entities, rows: int64 [n], which entity of the domain each is, and its row.
        """
        widths, most, done = self.program.widths[entities], self.program.most_records[entities], 0
        while True:
            done = segments.run_logs(
                words, starts, counts, widths, most, rows, done, self._meta, self._arena, self._head
            )
            if done == len(rows):
                return
            self._grow(GROW_ARENA)

    def clear(self, rows: Words) -> None:
        """Takes all their records from rows."""
        self._meta[rows] = (0, 0, 0, 0, NEVER)

    def find(self, batch: Words) -> Words:
        """Where each entity holds each event of a batch: int64 [n, E], -1 where it does not."""
        places = np.empty((len(batch), self.entities), np.int64)
        segments.find_records(batch, self.first, self._meta, self._arena, places)
        return places

    def count_live(self, entity: int, rows: Words) -> Words:
        """How many records each of these rows of one entity has that its windows can still see, int64 [n]."""
        counts = np.empty(len(rows), np.int64)
        segments.count_live(rows, self.program.keep_ms[entity], self._meta, self._arena, counts)
        return counts

    def records(self, entity: int, rows: Words, places: Words) -> Words:
        """Records of one entity, int64 [n, width]: of each its row, and its place as `find` gives it."""
        strides = self._meta[rows, M_CAPACITY]
        columns = strides.reshape(-1, 1) * np.arange(self.program.widths[entity])
        found: Words = self._arena[places.reshape(-1, 1) + columns]
        return found

    def newest_records(self, entity: int, row: int, count: int) -> Words:
        """The newest records of a row, oldest first, int64 [count, width]."""
        last = int(self._meta[row, M_OFFSET] + self._meta[row, M_START] + self._meta[row, M_LENGTH])
        return self.records(entity, np.full(count, row), np.arange(last - count, last))

    def label(self, row: int, place: int) -> int:
        """The label of the record at a place of a row."""
        return label_of(int(self._arena[place + TAG * self._meta[row, M_CAPACITY]]))

    def set_label(self, row: int, place: int, label: int) -> None:
        """Gives the record at a place of a row a label."""
        at = place + TAG * self._meta[row, M_CAPACITY]
        self._arena[at] = tag(int(self._arena[at]), label)

    # --- growth ---

    def _empty_ring(self, size: int) -> tuple[Words, Features]:
        return np.zeros((size, R_ROWS + self.entities + self._numbers), np.int64), np.zeros(
            (size, self._width), np.float32
        )

    def _index(self) -> None:
        """Makes the table over the ring anew."""
        self._table = np.full(2 * len(self._ring), -1, np.int32)
        ring.index_ring(self._table, self._ring, int(self._head[H_RING_HEAD]), int(self._head[H_RING_TAIL]))

    def _grow(self, need: int) -> None:
        if need == GROW_ARENA:
            self._arena = _roomier(self._arena)
        elif need == GROW_RING:
            self._ring = self._doubled(self._ring, H_RING_HEAD)
            self._index()
        else:
            self._features = self._doubled(self._features, H_FEATURES_HEAD)

    def _doubled(self, old: npt.NDArray[Any], head: int) -> npt.NDArray[Any]:
        """A ring of twice the size, with what the old one holds from `head` on."""
        sequence = np.arange(int(self._head[head]), int(self._head[H_RING_TAIL]))
        larger = np.zeros((2 * len(old), old.shape[1]), old.dtype)
        larger[sequence & (len(larger) - 1)] = old[sequence & (len(old) - 1)]
        return larger


def tag(key: int, label: int) -> int:
    """An event's key and label as a record holds them."""
    return (key & ~LABEL_BITS) | (label + 1)


def label_of(found: int) -> int:
    """The label in a tag or a moment."""
    return (found & LABEL_BITS) - 1


def _roomier(arena: Words) -> Words:
    # Zeroed memory takes no room before it is written to, and moving house stops the service: move seldom.
    larger = np.zeros(max(len(arena), 1 << 14) * 4, np.int64)
    larger[: len(arena)] = arena
    return larger


def _fresh_meta(rows: int) -> Words:
    meta = np.zeros((rows, META_COLUMNS), np.int64)
    meta[:, M_NEWEST] = NEVER
    return meta
