"""What of a shared state is loaded here: entities' records for the kernel, and the versions they had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from vigil.domains.spec import Domain
from vigil.features import commit, kernel, log, wire
from vigil.features.link import BUCKETS
from vigil.features.program import AN_ENTITY, KEEP_MS, MOST_RECORDS, PER_ENTITY, TAG, WIDTH
from vigil.features.store import NEVER, Features, MemoryStore, Status

NONE = 0  # the version of a log that is not there
REFRESH = 16  # a log's time is set anew this often while its domain's longest window passes
MOST_WORDS = 1 << 23  # of the arena; beyond it all is dropped and loaded anew when it is asked for
EMPTY_ROW = (0, 0, 0, 0, NEVER)  # of the kernel's state: no segment, nothing in it
_WHEN, _LENGTH = Struct("<qH"), Struct("<H")


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
        raw = [key.encode() for key in self.keys]
        keys = b"".join([_LENGTH.pack(len(key)) + key for key in raw])
        return self.head + _WHEN.pack(self.ts_ms, len(self.features)) + self.features.tobytes() + keys


def head(has_come: bool, label: int) -> bytes:
    """What is remembered of an event begins with this."""
    return bytes((wire.KNOWN if has_come else wire.WAITS, label + 1))


def decode(value: bytes) -> Remembered:
    """The inverse of :meth:`Remembered.encode`, and of :func:`vigil.features.wire.remembered`."""
    label = value[1] - 1
    if value[0] == wire.WAITS:
        return Remembered(label)
    ts_ms, count = _WHEN.unpack_from(value, wire.HEAD)
    features, at, keys = np.frombuffer(value, np.float32, count, wire.FIXED), wire.FIXED + 4 * count, []
    while at < len(value):
        end = at + _LENGTH.size + _LENGTH.unpack_from(value, at)[0]
        keys.append(value[at + _LENGTH.size : end].decode())
        at = end
    return Remembered(label, ts_ms, features, tuple(keys))


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
        self.entry_bytes = 8 * self.widths + 8
        self._keep_ms, self._most = limits[:, KEEP_MS].copy(), limits[:, MOST_RECORDS].copy()
        self.refresh_ms = int(self._keep_ms.max()) // REFRESH
        # Of each row: where its log lies, its version and more (columns in `wire.py`); and the bytes of all names.
        self.logs = np.zeros((len(self.store.meta), wire.LOG_COLUMNS), np.int64)
        self.names, self._names_end = np.zeros(1 << 16, np.uint8), 0

    def name(self, entity: int, key: str) -> Name:
        """Where the log of an entity lies."""
        raw = key.encode()
        bucket = xxh3_64_intdigest(raw) % BUCKETS
        return Name(entity, bucket, b"%b{%d}%d:%b" % (self._prefix, bucket, entity, raw))

    def rows(self, keys: Sequence[Sequence[str | int]]) -> npt.NDArray[np.int64]:
        """Where entities are in the kernel's state: int64 [n, E], -1 where one is not loaded.

        Args:
            keys: of each entity of the domain, n.
        """
        return np.column_stack([rows.of(of_entity) for rows, of_entity in zip(self.store.rows, keys, strict=True)])

    def missing(self, keys: Sequence[Sequence[str | int]], rows: npt.NDArray[np.int64]) -> list[tuple[int, str]]:
        """Entities (entity, key) that are not loaded, each once; `rows` are those of `keys`."""
        places, entities = np.nonzero(rows < 0)
        listed = zip(entities.tolist(), places.tolist(), strict=True)
        return list(dict.fromkeys((e, str(keys[e][i])) for e, i in listed))

    def event_name(self, key: int) -> tuple[int, bytes]:
        """Bucket and key of what is remembered of an event."""
        bucket = key % BUCKETS
        return bucket, b"%b{%d}e:%b" % (self._prefix, bucket, key.to_bytes(8, "big", signed=True))

    def load(self, wanted: Sequence[tuple[int, str]], names: Sequence[Name], logs: Sequence[bytes | None]) -> None:
        """Takes in the logs of entities (entity, key) that are not loaded; None: it has none yet."""
        store, first = self.store, self.store.count
        rows = np.array([store.add_row(entity, key) for entity, key in wanted], np.int64)
        if store.count > len(store.meta):
            store.meta, self.logs = (_enlarged(table, 2 * store.count) for table in (store.meta, self.logs))
        raw = np.array([len(key.encode()) for _, key in wanted], np.int64)
        joined = b"".join([name.key for name in names])
        ends = self._names_end + np.cumsum([len(name.key) for name in names])
        while ends[-1] > len(self.names):
            self.names = _enlarged(self.names, 2 * len(self.names))
        self.names[self._names_end : ends[-1]] = np.frombuffer(joined, np.uint8)
        table = self.logs[first : store.count]
        table[0, wire.NAME], table[1:, wire.NAME] = self._names_end, ends[:-1]
        table[:, wire.RAW], table[:, wire.NAME_END] = ends - raw, ends
        table[:, wire.ENTITY], table[:, wire.BUCKET] = np.array([name[:2] for name in names], np.int64).T
        self._names_end = int(ends[-1])
        self.reload(rows, logs, np.zeros(len(rows), bool))

    def reload(self, rows: npt.NDArray[np.int64], logs: Sequence[bytes | None], ends: npt.NDArray[np.bool_]) -> None:
        """Takes in what the logs of rows now are, in place of what they were.

        Args:
            rows: int64 [n].
            logs: of each, None: it is not there.
            ends: bool [n], where only what has come behind what is loaded is given.
        """
        store, table = self.store, self.logs
        anew = rows[~ends]
        store.meta[anew] = EMPTY_ROW
        table[anew, wire.ENTRIES], table[anew, wire.VERSION], table[anew, wire.REFRESHED] = 0, NONE, -1
        entities = table[rows, wire.ENTITY]
        widths, most = self.widths[entities], self._most[entities]
        lengths = np.array([len(log_ or b"") // 8 for log_ in logs], np.int64)
        last = np.cumsum(lengths)
        counts, starts = lengths // (widths + 1), last - lengths
        while int(store.head[kernel.H_TAIL]) + log.room(rows, counts, widths, store.meta) > len(store.arena):
            store._grow(kernel.GROW_ARENA)
        words = np.frombuffer(b"".join([log_ for log_ in logs if log_]), np.int64)
        store.head[kernel.H_TAIL] = log.run(
            words, starts, counts, widths, most, rows, store.meta, store.arena, int(store.head[kernel.H_TAIL])
        )
        table[rows, wire.ENTRIES] += counts
        table[rows[counts > 0], wire.VERSION] = words[last[counts > 0] - 1]

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
        features, _ = self.run(batch, {})
        self.live(0, np.zeros(1, np.int64))
        commit.packed(self.remembered(np.zeros(1, np.int64), batch, np.zeros(1, np.int64), features)[:2])

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

    def whole(self, entity: int, row: int, live: int, token: int) -> npt.NDArray[np.int64]:
        """An entity's log written anew, in words: its newest `live` records."""
        meta = self.store.meta[row]
        last = int(meta[kernel.M_OFFSET] + meta[kernel.M_START] + meta[kernel.M_LENGTH])
        stride, width = int(meta[kernel.M_CAPACITY]), int(self.widths[entity])
        return log.entries(self.store.arena, np.arange(last - live, last), stride, width, token, log.RECORD).reshape(-1)

    def label(self, row: int, place: int, label: int | None = None) -> int:
        """The label of the record at `place`; where one is given, the record gets it first."""
        at = place + TAG * int(self.store.meta[row, kernel.M_CAPACITY])
        if label is not None:
            self.store.arena[at] = log.tag(int(self.store.arena[at]), label)
        return log.label_of(int(self.store.arena[at]))

    def remembered(
        self,
        which: npt.NDArray[np.int64],
        batch: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        features: Features,
    ) -> tuple[commit.Bytes, commit.Ints, commit.Bytes, commit.Ints]:
        """Keys and values of what is remembered of events, as :class:`vigil.features.commit.Writes` has them.

        Args:
            which: int64 [m], places in the batch.
            batch: as the kernel takes it.
            labels: int64 [n].
            features: float32 [n, F].
        """
        prefix = np.frombuffer(self._prefix, np.uint8)
        count, spans = len(which), (np.empty((len(which), 2), np.int64), np.empty((len(which), 2), np.int64))
        owners = self.logs[batch[which][:, self.first :]]
        room = count * (wire.FIXED + 4 * features.shape[1]) + int(
            (owners[..., wire.NAME_END] - owners[..., wire.RAW] + 2).sum()
        )
        keys, values = np.empty(count * (len(prefix) + 16), np.uint8), np.empty(room, np.uint8)
        wire.remembered(
            which, batch, self.first, labels, features.view(np.uint8), self.logs, self.names, prefix,
            batch[:, kernel.B_KEY] % BUCKETS, keys, spans[0], values, spans[1],
        )  # fmt: skip
        return keys, spans[0], values, spans[1]

    def written(self, part: commit.Writes) -> None:
        """Takes note of what logs are now."""
        done = (part.rows >= 0) & (part.payload_at[:, 1] > part.payload_at[:, 0])
        if not done.any():
            return
        rows, at = part.rows[done], part.payload_at[done]
        entries = (at[:, 1] - at[:, 0]) // self.entry_bytes[self.logs[rows, wire.ENTITY]]
        anew = part.how[done] == commit.ANEW
        self.logs[rows, wire.VERSION] = part.payloads.view(np.int64)[at[:, 1] // 8 - 1]
        self.logs[rows, wire.ENTRIES] = np.where(anew, 0, self.logs[rows, wire.ENTRIES]) + entries


def _enlarged(table: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    larger = np.zeros((rows, *table.shape[1:]), table.dtype)
    larger[: len(table)] = table
    return larger
