"""What of a shared state is loaded here: entities' records for the kernel, and the versions they had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from vigil.domains.spec import Domain
from vigil.features.compiled import wire
from vigil.features.compiled.layout import B_KEY
from vigil.features.compiled.state import Event, Features, Status
from vigil.features.memory.store import MemoryStore
from vigil.features.shared import entity_log, scripts
from vigil.features.shared.connection import BUCKETS

NONE = 0  # the version of a log that is not there
REFRESH = 16  # a log's time is set anew this often while its domain's longest window passes
MOST_WORDS = 1 << 23  # of the arena; beyond it all is dropped and loaded anew when it is asked for
_WHEN, _LENGTH = Struct("<qHH"), Struct("<H")


class Remembered(NamedTuple):
    """What is remembered of an event by its key.

    Attributes:
        label: 1, 0 or -1 for none.
        ts_ms: of the event; None where only its label has come.
        features: float32 [F] as they were answered; empty where they are not kept any more.
        keys: of its entities.
        quanta: of its numbers.
    """

    label: int
    ts_ms: int | None = None
    features: npt.NDArray[np.float32] = np.empty(0, np.float32)
    keys: tuple[str, ...] = ()
    quanta: tuple[int, ...] = ()

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
        quanta = np.array(self.quanta, "<i8").tobytes()
        counts = len(self.features), len(self.quanta)
        return self.head + _WHEN.pack(self.ts_ms, *counts) + self.features.tobytes() + quanta + keys


def head(has_come: bool, label: int) -> bytes:
    """What is remembered of an event begins with this."""
    return bytes((wire.KNOWN if has_come else wire.WAITS, label + 1))


def decode(value: bytes) -> Remembered:
    """The inverse of `Remembered.encode`, and of `vigil.features.compiled.wire.remembered`."""
    label = value[1] - 1
    if value[0] == wire.WAITS:
        return Remembered(label)
    ts_ms, count, numbers = _WHEN.unpack_from(value, wire.HEAD)
    features, at, keys = np.frombuffer(value, np.float32, count, wire.FIXED), wire.FIXED + 4 * count, []
    quanta = np.frombuffer(value, "<i8", numbers, at).tolist()
    at += 8 * numbers
    while at < len(value):
        end = at + _LENGTH.size + _LENGTH.unpack_from(value, at)[0]
        keys.append(value[at + _LENGTH.size : end].decode())
        at = end
    return Remembered(label, ts_ms, features, tuple(keys), tuple(quanta))


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
        store: that has them; None: a new one.
    """

    def __init__(self, domain: Domain, prefix: bytes, store: MemoryStore | None = None) -> None:
        self._prefix = prefix
        self.domain = domain
        self.store = store or MemoryStore(domain)
        self.entities = len(domain.entities)
        self.state = self.store.state
        program = self.state.program
        self.first, self.widths = self.state.first, program.widths  # words of a record of each entity
        self.entry_bytes = 8 * self.widths + 8
        self.refresh_ms = int(program.keep_ms.max()) // REFRESH
        # Of each row: where its log lies, its version and more (columns in `wire.py`); and the bytes of all names.
        self.logs = np.zeros((1024, wire.LOG_COLUMNS), np.int64)
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
        self.state.reserve(store.count)
        if store.count > len(self.logs):
            self.logs = _enlarge(self.logs, 2 * store.count)
        raw = np.array([len(key.encode()) for _, key in wanted], np.int64)
        joined = b"".join([name.key for name in names])
        ends = self._names_end + np.cumsum([len(name.key) for name in names])
        while ends[-1] > len(self.names):
            self.names = _enlarge(self.names, 2 * len(self.names))
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
        table, anew = self.logs, rows[~ends]
        self.state.clear(anew)
        table[anew, wire.ENTRIES], table[anew, wire.VERSION], table[anew, wire.REFRESHED] = 0, NONE, -1
        entities = table[rows, wire.ENTITY]
        lengths = np.array([len(log_ or b"") // 8 for log_ in logs], np.int64)
        last = np.cumsum(lengths)
        counts, starts = lengths // (self.widths[entities] + 1), last - lengths
        words = np.frombuffer(bytearray().join([log_ for log_ in logs if log_]), np.int64)
        self.state.run_logs(words, starts, counts, entities, rows)
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
        self.state.find(batch)
        self.state.recall(key)
        features, _ = self.apply(batch, {})
        self.state.count_live(0, np.zeros(1, np.int64))
        scripts.pack_command(self.remembered(np.zeros(1, np.int64), batch, np.zeros(1, np.int64), features)[:2])

    @property
    def full(self) -> bool:
        """Whether so much is loaded that it is time to begin anew."""
        return self.state.words > MOST_WORDS

    def apply(self, batch: npt.NDArray[np.int64], known: Mapping[int, Remembered]) -> tuple[Features, Status]:
        """Runs the kernel over events whose entities are loaded.

        Args:
            batch: rows for the kernel.
            known: what is remembered of events, by key.
        """
        rows = self.store.rows
        events = [
            Event(
                key,
                event.label,
                event.ts_ms,
                event.features,
                [rows[e].get(name, -1) for e, name in enumerate(event.keys)],
                event.quanta,
            )
            for key, event in known.items()
        ]
        events.sort(key=lambda event: len(event.features) > 0 or event.ts_ms is None)
        self.state.remember(events, newest_ms=0, room=len(batch))
        return self.store.apply(batch)

    def whole(self, entity: int, row: int, live: int, token: int) -> npt.NDArray[np.int64]:
        """An entity's log written anew, in words: its newest `live` records."""
        return entity_log.entries(self.state.newest_records(entity, row, live), token).reshape(-1)

    def remembered(
        self,
        which: npt.NDArray[np.int64],
        batch: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        features: Features,
    ) -> tuple[scripts.Bytes, scripts.Ints, scripts.Bytes, scripts.Ints]:
        """Keys and values of what is remembered of events, as `vigil.features.shared.scripts.Writes` has them.

        Args:
            which: int64 [m], places in the batch.
            batch: as the kernel takes it.
            labels: int64 [n].
            features: float32 [n, F].
        """
        prefix = np.frombuffer(self._prefix, np.uint8)
        count, spans = len(which), (np.empty((len(which), 2), np.int64), np.empty((len(which), 2), np.int64))
        owners = self.logs[batch[which][:, self.first :]]
        room = count * (wire.FIXED + 4 * features.shape[1] + 8 * (self.first - wire.NUMBERS)) + int(
            (owners[..., wire.NAME_END] - owners[..., wire.RAW] + 2).sum()
        )
        keys, values = np.empty(count * (len(prefix) + 16), np.uint8), np.empty(room, np.uint8)
        wire.remembered(
            which, batch, self.first, labels, features.view(np.uint8), self.logs, self.names, prefix,
            batch[:, B_KEY] % BUCKETS, keys, spans[0], values, spans[1],
        )  # fmt: skip
        return keys, spans[0], values, spans[1]

    def acknowledge(self, part: scripts.Writes) -> None:
        """Takes note of what logs are now."""
        done = (part.rows >= 0) & (part.payload_at[:, 1] > part.payload_at[:, 0])
        if not done.any():
            return
        rows, at = part.rows[done], part.payload_at[done]
        entries = (at[:, 1] - at[:, 0]) // self.entry_bytes[self.logs[rows, wire.ENTITY]]
        anew = part.how[done] == scripts.ANEW
        self.logs[rows, wire.VERSION] = part.payloads.view(np.int64)[at[:, 1] // 8 - 1]
        self.logs[rows, wire.ENTRIES] = np.where(anew, 0, self.logs[rows, wire.ENTRIES]) + entries


def _enlarge(table: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    larger = np.zeros((rows, *table.shape[1:]), table.dtype)
    larger[: len(table)] = table
    return larger
