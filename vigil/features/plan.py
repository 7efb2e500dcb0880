"""What is to be written for events and labels, given what is loaded: nothing here speaks with a server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vigil.features import kernel, log
from vigil.features.commit import Write
from vigil.features.loaded import NONE, Loaded, Name, Remembered, head
from vigil.features.store import Features, Status

WORN = 16  # entries more than twice those needed that a log may hold
_ABSENT = b"\0\0"
Packed = tuple[list[int], list[str]]


def computed(
    loaded: Loaded, packed: Sequence[Packed], known: dict[int, Remembered]
) -> tuple[Features, Status, list[list[Write]]]:
    """Features, what became of the events, and the writes, stage by stage, after which that is so."""
    values = np.array([values for values, _ in packed], np.int64)
    owners = [rows.of([keys[e] for _, keys in packed]) for e, rows in enumerate(loaded.store.rows)]
    unlabelled = np.tile(np.array([0, -1]), (len(packed), 1))
    batch = np.column_stack((values[:, :2], unlabelled, values[:, 2:], *owners))
    before = loaded.places(batch)
    relabelled = _relabelled(loaded, batch, before, known) if known else []
    features, status = loaded.run(batch, known)
    after = loaded.places(batch)
    added = (after >= 0) & (before < 0) & (status <= kernel.TOO_LATE)[:, None]
    token = secrets.randbits(62)
    stages = []
    for e in range(loaded.entities):
        again = [i for i, entity in relabelled if entity == e]
        events = np.concatenate([np.nonzero(added[:, e])[0], np.array(again, np.int64)])
        whats = np.full(len(events), log.RECORD)
        whats[len(events) - len(again) :] = log.RELABEL
        owners = batch[events, loaded.first + e]
        order = np.argsort(owners, kind="stable")
        owners, places = owners[order], after[events[order], e]
        entries = loaded.entries(e, owners, places, token, whats[order])
        stages.append(list(_log_writes(loaded, e, np.unique(batch[:, loaded.first + e]), owners, entries, token)))
    stages.append(_event_writes(loaded, packed, batch, features, status, after, known))
    return features, status, stages


def _relabelled(
    loaded: Loaded, batch: npt.NDArray[np.int64], before: npt.NDArray[np.int64], known: dict[int, Remembered]
) -> list[tuple[int, int]]:
    """Gives records that an earlier try has written the label that has come since: (event, entity) of each."""
    done = []
    for i, key in enumerate(batch[:, kernel.B_KEY].tolist()):
        event = known.get(key)
        if event is None or event.ts_ms is not None:
            continue
        for e, place in enumerate(before[i].tolist()):
            row = int(batch[i, loaded.first + e])
            if place >= 0 and loaded.label(row, place) != event.label:
                loaded.label(row, place, event.label)
                done.append((i, e))
    return done


def _log_writes(
    loaded: Loaded,
    entity: int,
    touched: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
    entries: npt.NDArray[np.int64],
    token: int,
) -> Iterator[Write]:
    """Writes to the logs of one entity: its rows `touched`, `entries` of the rows `owners`, sorted by these."""
    starts, ends = np.searchsorted(owners, touched), np.searchsorted(owners, touched, "right")
    blob, width = entries.tobytes(), 8 * entries.shape[1]
    newest = loaded.store.meta[touched, kernel.M_NEWEST] // loaded.refresh_ms
    live = loaded.live(entity, touched)
    of_rows = (column.tolist() for column in (touched, starts * width, ends * width, live, newest))
    for row, start, end, needed, time_of in zip(*of_rows, strict=True):
        _, bucket, key = loaded.names[row]
        how, payload = "k", blob[start:end]
        if payload:
            how = "a"
            if loaded.refreshed[row] != time_of:
                how, loaded.refreshed[row] = "x", time_of
            if loaded.logged[row] + len(payload) // width > 2 * needed + WORN:
                how, payload = "s", loaded.whole(entity, row, needed, token)
        yield Write(bucket, key, how, loaded.versions[row], payload, row)


def _event_writes(
    loaded: Loaded,
    packed: Sequence[Packed],
    batch: npt.NDArray[np.int64],
    features: Features,
    status: Status,
    places: npt.NDArray[np.int64],
    known: dict[int, Remembered],
) -> list[Write]:
    writes: dict[int, Write] = {}
    nothing = Remembered(-1)
    for i, became in enumerate(status.tolist()):
        (key, ts_ms, *_), keys = packed[i]
        event = known.get(key, nothing)
        if became == kernel.REPEAT or event.ts_ms is not None or key in writes:
            continue
        label = event.label
        if became == kernel.RECOMPUTED and event is nothing:
            rows = batch[i, loaded.first :].tolist()
            held = [(row, place) for row, place in zip(rows, places[i].tolist(), strict=True) if place >= 0]
            label = max(loaded.label(row, place) for row, place in held)
        before = _ABSENT if event is nothing else event.head
        payload = Remembered(label, ts_ms, features[i], tuple(keys)).encode()
        bucket, name = loaded.event_name(key)
        writes[key] = Write(bucket, name, "p", before, payload, -1)
    return list(writes.values())


def labelled(
    loaded: Loaded, given: Sequence[tuple[int, int]], remembered: dict[int, Remembered]
) -> tuple[Status, list[list[Write]], list[tuple[int, str]]]:
    """What becomes of labels, the writes stage by stage, and the entities whose logs get longer by them."""
    status = np.empty(len(given), np.uint8)
    labels = {key: event.label for key, event in remembered.items()}
    for i, (key, label) in enumerate(given):
        waits = key not in remembered or remembered[key].ts_ms is None
        status[i] = kernel.LABEL_WAITS if waits else kernel.LABELLED
        if labels.get(key) == label:
            status[i] = kernel.LABEL_KNOWN
        labels[key] = label
    logs: dict[Name, list[bytes]] = {}
    events, touched, token = list[Write](), list[tuple[int, str]](), secrets.randbits(62)
    for key, label in labels.items():
        event = remembered.get(key)
        if event and event.label == label:
            continue
        bucket, name = loaded.event_name(key)
        before = event.head if event else _ABSENT
        has_come = event is not None and event.ts_ms is not None
        events.append(Write(bucket, name, "h" if has_come else "p", before, head(has_come, label), -1))
        if event is None or event.ts_ms is None:
            continue
        touched += enumerate(event.keys)
        for e, entity_key in enumerate(event.keys):
            entry = log.relabelling(event.ts_ms, key, label, int(loaded.widths[e]), token)
            logs.setdefault(loaded.name(e, entity_key), []).append(entry)
    of_logs = [Write(n.bucket, n.key, "l", NONE, b"".join(new), -1) for n, new in logs.items()]
    return status, [of_logs, events], touched
