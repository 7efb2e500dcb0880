"""What of a shared state is loaded here: entities' records for the kernel, and the versions they had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from vigil.domains.spec import Domain
from vigil.features import kernel, log
from vigil.features.link import BUCKETS
from vigil.features.program import AN_ENTITY, KEEP_MS, MOST_RECORDS, PER_ENTITY, TAG, WIDTH
from vigil.features.store import Features, MemoryStore, Status

NONE = bytes(8)  # the version of a log that is not there
REFRESH = 16  # a log's time is set anew this often while its domain's longest window passes
MOST_WORDS = 1 << 23  # of the arena; beyond it all is dropped and loaded anew when it is asked for
_WAITS, _KNOWN = b"w", b"k"
_LABEL_AT = 1  # of the two bytes that a remembered event begins with: kind, label + 1


class Remembered(NamedTuple):
    """What is remembered of an event by its key.

    Attributes:
        label: 1, 0 or -1 for none.
        ts_ms: of the event; None where only its label has come.
        features: float32 [F] as they were answered; empty where they are not kept any more.
        keys: of its entities.
    """

    label: int
    ts_ms: int | None = None
    features: npt.NDArray[np.float32] = np.empty(0, np.float32)
    keys: tuple[str, ...] = ()

    @property
    def head(self) -> bytes:
        """The two bytes it begins with: whether the event has come, and its label."""
        return head(self.ts_ms is not None, self.label)

    def encode(self) -> bytes:
        """As it lies in the shared state."""
        if self.ts_ms is None:
            return self.head
        rest = msgspec.msgpack.encode((self.ts_ms, self.features.tobytes(), self.keys))
        return self.head + rest


def head(has_come: bool, label: int) -> bytes:
    """What is remembered of an event begins with this."""
    return (_KNOWN if has_come else _WAITS) + bytes((label + 1,))


_rest = msgspec.msgpack.Decoder(tuple[int, bytes, tuple[str, ...]])


def decode(value: bytes) -> Remembered:
    """The inverse of :meth:`Remembered.encode`."""
    label = value[_LABEL_AT] - 1
    if value[:1] == _WAITS:
        return Remembered(label)
    ts_ms, features, keys = _rest.decode(value[2:])
    return Remembered(label, ts_ms, np.frombuffer(features, np.float32), keys)


def moment(event: Remembered, waiting_ms: int) -> int:
    """Time and label of an event as the kernel's ring has them; a label that waits is of the time `waiting_ms`."""
    if event.ts_ms is None:
        return waiting_ms << 3 | kernel.WAITS | event.label + 1
    return event.ts_ms << 3 | event.label + 1


class Name(NamedTuple):
    """Where an entity's log lies: which entity of the domain it is, bucket and key."""

    entity: int
    bucket: int
    key: bytes


class Loaded:
    """Entities of one domain, as the kernel takes them.

    Args:
        domain: whose entities.
        prefix: of all keys.
    """

    def __init__(self, domain: Domain, prefix: bytes) -> None:
        self._prefix = prefix
        self.domain = domain
        self.store = MemoryStore(domain)
        self.entities = len(domain.entities)
        self.first = kernel.B_VALUES + len(domain.numbers)
        limits = self.store._program.limits[PER_ENTITY:].reshape(self.entities, AN_ENTITY)
        self.widths = limits[:, WIDTH].copy()  # words of a record of each entity
        self._entry_bytes: list[int] = (8 * self.widths + 8).tolist()
        self._keep_ms, self._most = limits[:, KEEP_MS].copy(), limits[:, MOST_RECORDS].copy()
        self.refresh_ms = int(self._keep_ms.max()) // REFRESH
        # Of each row: where its log lies, its version, its entries, and when its time was set anew.
        self.names: list[Name] = []
        self.versions: list[bytes] = []
        self.logged: list[int] = []
        self.refreshed: list[int] = []

    def name(self, entity: int, key: str) -> Name:
        """Where the log of an entity lies."""
        raw = key.encode()
        bucket = xxh3_64_intdigest(raw) % BUCKETS
        return Name(entity, bucket, b"%b{%d}%d:%b" % (self._prefix, bucket, entity, raw))

    def row(self, entity: int, key: str) -> int | None:
        """Where an entity is in `meta`; None where it is not loaded."""
        return self.store.rows[entity].get(key)

    def event_name(self, key: int) -> tuple[int, bytes]:
        """Bucket and key of what is remembered of an event."""
        bucket = key % BUCKETS
        return bucket, b"%b{%d}e:%b" % (self._prefix, bucket, key.to_bytes(8, "big", signed=True))

    def load(self, wanted: Sequence[tuple[int, str]], names: Sequence[Name], logs: Sequence[bytes | None]) -> None:
        """Takes in the logs of entities (entity, key) that are not loaded; None: it has none yet."""
        store = self.store
        entities = [entity for entity, _ in wanted]
        widths, most = self.widths[entities], self._most[entities]
        lengths = np.array([len(log_ or b"") // 8 for log_ in logs], np.int64)
        counts, starts = lengths // (widths + 1), np.cumsum(lengths) - lengths
        rows = np.array([store.add_row(entity, key) for entity, key in wanted], np.int64)
        if store.count > len(store.meta):
            meta = np.zeros((2 * store.count, store.meta.shape[1]), np.int64)
            meta[: len(store.meta)] = store.meta
            store.meta = meta
        while int(store.head[kernel.H_TAIL]) + log.room(counts, widths) > len(store.arena):
            store._grow(kernel.GROW_ARENA)
        words = np.frombuffer(b"".join([log_ for log_ in logs if log_]), np.int64)
        store.head[kernel.H_TAIL] = log.run(
            words, starts, counts, widths, most, rows, store.meta, store.arena, int(store.head[kernel.H_TAIL])
        )
        self.versions += [log_[-8:] if log_ else NONE for log_ in logs]
        self.logged += counts.tolist()
        self.names += names
        self.refreshed += [-1] * len(wanted)

    def drop(self, pairs: Iterable[tuple[int, str]]) -> None:
        """Forgets entities (entity, key); they are loaded anew when they are asked for."""
        for entity, key in pairs:
            if key in self.store.rows[entity]:
                del self.store.rows[entity][key]

    def warm(self) -> None:
        """Has compiled what is used here, which otherwise the first caller would wait for."""
        event = self.domain.example | {"event_id": "warm"}
        (key, ts_ms, *numbers), keys = self.store.schema.row(self.store.schema.make(event))
        wanted = list(enumerate(keys))
        self.load(wanted, [self.name(*pair) for pair in wanted], [None] * len(wanted))
        batch = np.array([[key, ts_ms, 0, -1, *numbers, *range(self.entities)]], np.int64)
        self.places(batch)
        self.run(batch, {})
        self.live(0, np.zeros(1, np.int64))

    @property
    def full(self) -> bool:
        """Whether so much is loaded that it is time to begin anew."""
        return int(self.store.head[kernel.H_TAIL]) > MOST_WORDS

    def places(self, batch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where each entity holds each event: int64 [n, E], -1 where it does not."""
        found = np.empty((len(batch), self.entities), np.int64)
        log.find(batch, self.first, self.store.meta, self.store.arena, found)
        return found

    def run(self, batch: npt.NDArray[np.int64], known: Mapping[int, Remembered]) -> tuple[Features, Status]:
        """Runs the kernel over events whose entities are loaded.

        Args:
            batch: rows for the kernel.
            known: what is remembered of events, by key.
        """
        store, features = self.store, len(self.domain.features)
        size = 16
        while size <= len(batch) + len(known):
            size *= 2
        store.ring = np.zeros((size, kernel.R_ROWS + self.entities), np.int64)
        store.features = np.empty((size, features), np.float32)
        store.table = np.full(2 * size, -1, np.int32)
        # Those whose features are not kept come first: the features of the oldest are forgotten first.
        ordered = sorted(known.items(), key=lambda item: len(item[1].features) > 0 or item[1].ts_ms is None)
        store.head[kernel.H_FEATURES_HEAD] = 0
        for slot, (key, event) in enumerate(ordered):
            store.ring[slot, : kernel.R_ROWS] = key, moment(event, 0)
            if len(event.features):
                store.features[slot] = event.features
            elif event.ts_ms is not None:
                store.head[kernel.H_FEATURES_HEAD] = slot + 1
        store.head[kernel.H_RING_HEAD], store.head[kernel.H_RING_TAIL] = 0, len(known)
        store.head[kernel.H_NEWEST] = 0
        kernel.index_ring(store.table, store.ring, 0, len(known))
        return store.run(batch)

    def live(self, entity: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many records each of these rows of one entity has that its windows can still see."""
        counts = np.empty(len(rows), np.int64)
        log.live(rows, self._keep_ms[entity], self.store.meta, self.store.arena, counts)
        return counts

    def entries(
        self, entity: int, rows: npt.NDArray[np.int64], places: npt.NDArray[np.int64], token: int, what: log.Words
    ) -> npt.NDArray[np.int64]:
        """Entries of the logs of one entity for records at `places`, which belong to `rows`."""
        strides = self.store.meta[rows, kernel.M_CAPACITY]
        return log.entries(self.store.arena, places, strides, int(self.widths[entity]), token, what)

    def whole(self, entity: int, row: int, live: int, token: int) -> bytes:
        """An entity's log written anew: its newest `live` records."""
        meta = self.store.meta[row]
        last = int(meta[kernel.M_OFFSET] + meta[kernel.M_START] + meta[kernel.M_LENGTH])
        stride, width = int(meta[kernel.M_CAPACITY]), int(self.widths[entity])
        return log.entries(self.store.arena, np.arange(last - live, last), stride, width, token, log.RECORD).tobytes()

    def label(self, row: int, place: int, label: int | None = None) -> int:
        """The label of the record at `place`; where one is given, the record gets it first."""
        at = place + TAG * int(self.store.meta[row, kernel.M_CAPACITY])
        if label is not None:
            self.store.arena[at] = log.tag(int(self.store.arena[at]), label)
        return log.label_of(int(self.store.arena[at]))

    def written(self, row: int, payload: bytes, anew: bool) -> None:
        """Takes note of what an entity's log is now."""
        self.versions[row] = payload[-8:]
        entries = len(payload) // self._entry_bytes[self.names[row].entity]
        self.logged[row] = entries if anew else self.logged[row] + entries
