"""What is to be written for events and labels, given what is loaded: nothing here speaks with a server."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from vigil.domains.schema import MAX_KEY, Schema, keys_of
from vigil.domains.times import ANY_TIME, Times
from vigil.features.compiled import wire
from vigil.features.compiled.layout import (
    B_IS_LABEL,
    B_KEY,
    B_LABEL,
    B_VALUES,
    CONFLICT,
    LABEL_KNOWN,
    LABEL_WAITS,
    LABELLED,
    RECORD,
    RELABEL,
    REPEAT,
    TOO_LATE,
)
from vigil.features.compiled.state import Features, Status
from vigil.features.memory.store import FEW
from vigil.features.shared import entity_log
from vigil.features.shared.cache import NONE, Loaded, Name, Remembered, head
from vigil.features.shared.connection import BUCKETS
from vigil.features.shared.scripts import ANEW, APPENDED, KEPT, PUT, RENEWED, Writes

WORN = 16  # entries more than twice those needed that a log may hold
_ABSENT = 0


class PackedEvents(NamedTuple):
    """Events as the kernel takes them, n, but for the rows of their entities.

    Attributes:
        values: int64 [n, 2 + numbers]: key, ts_ms, quanta of each number.
        keys: of each entity, n.
        ids: of the events, n.
        seed: of their keys; another one makes other keys of the ids.
    """

    values: npt.NDArray[np.int64]
    keys: list[list[str | int]]
    ids: list[str | int]
    seed: int

    @classmethod
    def of(cls, schema: Schema, events: Sequence[Any], times: Times = ANY_TIME) -> Self:
        """Packs events; `times`: between which they may lie.

        Raises:
            InvalidEvent: for a value that cannot be.
        """
        ids, seed = [event.event_id for event in events], schema.seed
        if len(events) < FEW:
            packed = [schema.row(event, "", times) for event in events]
            listed: list[list[str | int]] = [[keys[e] for _, keys in packed] for e in range(len(schema.entities))]
            return cls(np.array([values for values, _ in packed], np.int64), listed, ids, seed)
        keys = [list(map(attrgetter(name), events)) for name in schema.entities]
        lengths = set(map(len, map(str, chain.from_iterable(keys))))
        if not 0 < min(lengths) <= max(lengths) <= MAX_KEY:
            for event in events:
                schema.row(event, "", times)
        return cls(schema.columns(events, times), keys, ids, seed)

    def part(self, start: int, end: int) -> PackedEvents:
        """Some of them."""
        keys = [of_entity[start:end] for of_entity in self.keys]
        return PackedEvents(self.values[start:end], keys, self.ids[start:end], self.seed)

    def keyed(self, seed: int) -> Self:
        """The same with keys of that seed."""
        if seed == self.seed:
            return self
        return self._replace(values=np.column_stack((keys_of(self.ids, seed), self.values[:, 1:])), seed=seed)


def plan_events(
    loaded: Loaded, values: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], known: dict[int, Remembered]
) -> tuple[Features, Status, list[Writes]]:
    """Features, what became of the events, and the writes, stage by stage, after which that is so.

    Args:
        values: of the events, as in `PackedEvents`.
        rows: int64 [n, E], of their entities, which are loaded.
        known: what is remembered of events, by key.
    """
    batch = np.empty((len(values), loaded.store.columns), np.int64)
    batch[:, :B_IS_LABEL], batch[:, B_VALUES : loaded.first] = values[:, :2], values[:, 2:]
    batch[:, B_IS_LABEL], batch[:, B_LABEL], batch[:, loaded.first :] = 0, -1, rows
    before = loaded.state.find(batch)
    relabelled = _relabel(loaded, batch, before, known) if known else []
    labels = _labels(loaded, batch, before, known)
    features, status = loaded.apply(batch, known)
    after = loaded.state.find(batch)
    added = (after >= 0) & (before < 0) & (status <= TOO_LATE)[:, None]
    token = secrets.randbits(62)
    stages = []
    for e in range(loaded.entities):
        again = [i for i, entity in relabelled if entity == e]
        events = np.concatenate([np.nonzero(added[:, e])[0], np.array(again, np.int64)])
        whats = np.full(len(events), RECORD)
        whats[len(events) - len(again) :] = RELABEL
        owners = rows[events, e]
        order = np.argsort(owners, kind="stable")
        owners, places = owners[order], after[events[order], e]
        entries = entity_log.entries(loaded.state.records(e, owners, places), token, whats[order])
        stages.append(_log_writes(loaded, e, np.unique(rows[:, e]), owners, entries, token))
    stages.append(_event_writes(loaded, batch, features, status, labels, known))
    return features, status, stages


def _relabel(
    loaded: Loaded, batch: npt.NDArray[np.int64], before: npt.NDArray[np.int64], known: dict[int, Remembered]
) -> list[tuple[int, int]]:
    """Gives records that an earlier try has written the label that has come since: (event, entity) of each."""
    done = []
    for i, key in enumerate(batch[:, B_KEY].tolist()):
        event = known.get(key)
        if event is None or event.ts_ms is not None:
            continue
        for e, place in enumerate(before[i].tolist()):
            row = int(batch[i, loaded.first + e])
            if place >= 0 and loaded.state.label(row, place) != event.label:
                loaded.state.set_label(row, place, event.label)
                done.append((i, e))
    return done


def _labels(
    loaded: Loaded, batch: npt.NDArray[np.int64], places: npt.NDArray[np.int64], known: dict[int, Remembered]
) -> npt.NDArray[np.int64]:
    """Labels of events: as remembered, else as their records have it, which may be gone once the batch has run."""
    labels = np.full(len(batch), -1)
    for i in np.flatnonzero((places >= 0).any(axis=1)).tolist():
        rows = batch[i, loaded.first :].tolist()
        held = [(row, place) for row, place in zip(rows, places[i].tolist(), strict=True) if place >= 0]
        labels[i] = max(loaded.state.label(row, place) for row, place in held)
    if known:
        for i, key in enumerate(batch[:, B_KEY].tolist()):
            if event := known.get(key):
                labels[i] = event.label
    return labels


def _log_writes(
    loaded: Loaded,
    entity: int,
    touched: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
    entries: npt.NDArray[np.int64],
    token: int,
) -> Writes:
    """Writes to the logs of one entity: its rows `touched`, `entries` of the rows `owners`, sorted by these."""
    logs = loaded.logs[touched]
    at = np.column_stack((np.searchsorted(owners, touched), np.searchsorted(owners, touched, "right")))
    counts = at[:, 1] - at[:, 0]
    at *= 8 * entries.shape[1]
    times = loaded.state.newest_ms(touched) // loaded.refresh_ms
    live = loaded.state.count_live(entity, touched)
    renewed = (counts > 0) & (logs[:, wire.REFRESHED] != times)
    loaded.logs[touched[renewed], wire.REFRESHED] = times[renewed]
    how = np.where(renewed, RENEWED, np.where(counts > 0, APPENDED, KEPT)).astype(np.uint8)
    words = entries.reshape(-1)
    for i in np.flatnonzero((counts > 0) & (logs[:, wire.ENTRIES] + counts > 2 * live + WORN)).tolist():
        whole = loaded.whole(entity, int(touched[i]), int(live[i]), token)
        how[i], at[i] = ANEW, (8 * len(words), 8 * (len(words) + len(whole)))
        words = np.concatenate([words, whole])
    key_at = logs[:, [wire.NAME, wire.NAME_END]]
    versions = logs[:, wire.VERSION]
    return Writes(how, versions, logs[:, wire.BUCKET], loaded.names, key_at, words.view(np.uint8), at, touched)


def _event_writes(
    loaded: Loaded,
    batch: npt.NDArray[np.int64],
    features: Features,
    status: Status,
    labels: npt.NDArray[np.int64],
    known: dict[int, Remembered],
) -> Writes:
    """Puts events of a batch that are not remembered yet, each once."""
    keys = batch[:, B_KEY]
    heads, puts = np.full(len(batch), _ABSENT, np.uint16), (status != REPEAT) & (status != CONFLICT)
    if known:
        for i, key in enumerate(keys.tolist()):
            if event := known.get(key):
                puts[i] &= event.ts_ms is None
                heads[i] = _head(event)
    which = np.flatnonzero(puts)
    which = which[np.sort(np.unique(keys[which], return_index=True)[1])]
    buckets = keys[which] % BUCKETS
    how, none = np.full(len(which), PUT, np.uint8), np.full(len(which), -1)
    return Writes(how, heads[which], buckets, *loaded.remembered(which, batch, labels, features), none)


def guard(loaded: Loaded, before: Sequence[Writes]) -> list[Writes]:
    """Looks, for a commit that comes behind another one, whether that has been written: at a log that it changes.

    One that changes no log has only events that are known or too late: what is behind it does not rest on it.
    """
    for part in before:
        if part.of_logs and len(changed := np.flatnonzero(part.how != KEPT)):
            one = part.take(changed[:1])
            how, version, nothing = np.full(1, KEPT, np.uint8), loaded.logs[one.rows, wire.VERSION], one.payload_at * 0
            return [one._replace(how=how, before=version, payload_at=nothing)]
    return []


def plan_labels(
    loaded: Loaded, given: Sequence[tuple[int, int]], remembered: dict[int, Remembered]
) -> tuple[Status, list[Writes], list[tuple[int, str]]]:
    """What becomes of labels, the writes stage by stage, and the entities whose logs get longer by them."""
    status = np.empty(len(given), np.uint8)
    labels = {key: event.label for key, event in remembered.items()}
    for i, (key, label) in enumerate(given):
        waits = key not in remembered or remembered[key].ts_ms is None
        status[i] = LABEL_WAITS if waits else LABELLED
        if labels.get(key) == label:
            status[i] = LABEL_KNOWN
        labels[key] = label
    logs: dict[Name, list[bytes]] = {}
    how, heads, places, payloads = "", list[int](), list[tuple[int, bytes]](), list[bytes]()
    touched, token = list[tuple[int, str]](), secrets.randbits(62)
    for key, label in labels.items():
        event = remembered.get(key)
        if event and event.label == label:
            continue
        has_come = event is not None and event.ts_ms is not None
        how += "h" if has_come else "p"
        heads.append(_head(event) if event else _ABSENT)
        places.append(loaded.event_name(key))
        payloads.append(head(has_come, label))
        if event is None or event.ts_ms is None:
            continue
        touched += enumerate(event.keys)
        for e, entity_key in enumerate(event.keys):
            entry = entity_log.relabel_entry(event.ts_ms, key, label, int(loaded.widths[e]), token)
            logs.setdefault(loaded.name(e, entity_key), []).append(entry)
    of_events = Writes.of(how, np.array(heads, np.uint16), places, payloads)
    versions, new = np.full(len(logs), NONE), [b"".join(entries) for entries in logs.values()]
    of_logs = Writes.of("l" * len(logs), versions, [(name.bucket, name.key) for name in logs], new)
    return status, [of_logs, of_events], touched


def _head(event: Remembered) -> int:
    return int.from_bytes(event.head, "little")
