"""Whole states from one place to another: memory, a snapshot on disk, servers."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import redis

from vigil.domains.spec import Domain
from vigil.errors import StateError
from vigil.features import kernel, log
from vigil.features.link import Command, shown
from vigil.features.loaded import Loaded, Remembered, decode, moment
from vigil.features.shared import SharedState, SharedStore
from vigil.features.state import State, read_snapshot, seed, write_snapshot
from vigil.features.store import MemoryStore
from vigil.settings import MEMORY, Settings

PAGE = 1000  # keys of a round trip
PATIENT_MS = 30_000  # nobody waits for an answer here
Progress = Callable[[int], None]


def export(domain: Domain, settings: Settings, folder: Path, progress: Progress) -> MemoryStore:
    """Writes the state that `settings` name as a snapshot into `folder`; what was written.

    Raises:
        StateError: where a running service holds the state (memory), or `folder` has a snapshot.
        Unavailable: where the servers are away.
    """
    if (folder / "snapshot").exists():
        raise StateError(f"{folder / 'snapshot'} is there already; remove it or choose another folder")
    if settings.state_url == MEMORY:
        held = State(domain, settings)
        held.abandon()
        store = held.store
    else:
        with opened(domain, settings) as shared:
            store = gathered(shared.store, progress)
    write_snapshot(store, folder)
    return store


def load(domain: Domain, folder: Path) -> MemoryStore:
    """The state of a snapshot that :func:`export` wrote.

    Raises:
        StateError: where there is none, or it is damaged or of another domain or feature spec.
    """
    path = folder / "snapshot"
    if any(folder.glob("journal-*")):
        raise StateError(f"{folder} has more than its snapshot; vigil features export writes all of it")
    if not path.exists():
        raise StateError(f"{path} is not there; vigil features export writes it")
    store = MemoryStore(domain)
    read_snapshot(store, path)
    return store


def put(store: MemoryStore, settings: Settings, replace: bool, progress: Progress) -> bool:
    """Makes `store` the state that `settings` name.

    Args:
        replace: also where there is a state already, which is removed.
        progress: called with the number of entities and events written.

    Returns:
        whether it was written: False where there is a state, which stays.

    Raises:
        StateError: (memory) where a running service holds the state.
        Unavailable: where the servers are away; what was written until then stays.
    """
    if settings.state_url == MEMORY:
        return seed(store, settings, replace)
    with opened(store.domain, settings) as shared:
        for keys in pages(shared.store):
            if not replace:
                return False
            shared.store.link.call([(_bucket(key), ("UNLINK", key)) for key in keys])
        spread(store, shared.store, progress)
    return True


def place(domain: Domain, settings: Settings) -> str:
    """Where `settings` say the state of a domain is, for people."""
    if settings.state_url == MEMORY:
        return str(settings.state_dir / "features" / domain.name)
    return shown(settings.state_url)


def size(store: MemoryStore) -> int:
    """Entities and remembered events of a state."""
    return store.count + int(store.head[kernel.H_RING_TAIL] - store.head[kernel.H_RING_HEAD])


def opened(domain: Domain, settings: Settings) -> SharedState:
    """The shared state of a domain, with patience."""
    patience_ms = max(settings.state_timeout_ms, PATIENT_MS)
    return SharedState(domain, settings.model_copy(update={"state_timeout_ms": patience_ms}))


def pages(shared: SharedStore) -> Iterator[list[bytes]]:
    """Keys of all that the servers hold of a domain, at most some `PAGE` at a time; some may come twice."""
    shared.link.call([])  # refuses where nobody answers
    for pool in shared.link.masters():
        scan = redis.Redis(connection_pool=pool).scan_iter(shared.prefix + b"*", PAGE)
        while found := shared.link.bounded(partial(_some, scan)):
            yield found


def gathered(shared: SharedStore, progress: Progress) -> MemoryStore:
    """All that the servers hold, as a memory store; nobody should write meanwhile."""
    loaded = Loaded(shared.domain, shared.prefix)
    pattern = re.compile(re.escape(shared.prefix) + rb"\{\d+\}(e|\d+):(.*)", re.DOTALL)
    events: dict[int, Remembered] = {}
    done = 0
    for keys in pages(shared):
        logs: dict[tuple[int, str], bytes] = {}
        for key, value in zip(keys, shared.link.call([(_bucket(key), ("GET", key)) for key in keys]), strict=True):
            match = pattern.fullmatch(key)
            if value is None or match is None:
                continue
            if match[1] == b"e":
                events[int.from_bytes(match[2], "big", signed=True)] = decode(value)
            else:
                logs[int(match[1]), match[2].decode()] = value
        new = [pair for pair in logs if pair[1] not in loaded.store.rows[pair[0]]]
        if new:
            loaded.load(new, [loaded.name(*pair) for pair in new], [logs[pair] for pair in new])
        done += len(keys)
        progress(done)
    _remember(loaded.store, events)
    return loaded.store


def _remember(store: MemoryStore, events: dict[int, Remembered]) -> None:
    """Fills the ring of a store that has its entities."""
    domain = store.domain
    newest = max((event.ts_ms or 0 for event in events.values()), default=0)

    def age(item: tuple[int, Remembered]) -> tuple[bool, int]:  # those without features are forgotten first
        event = item[1]
        return event.ts_ms is None or len(event.features) > 0, newest if event.ts_ms is None else event.ts_ms

    kept = sorted(events.items(), key=age)[-domain.most_remembered :]
    length = 16
    while length <= len(kept):
        length *= 2
    store.ring = np.zeros((length, kernel.R_ROWS + len(domain.entities)), np.int64)
    store.features = np.zeros((length, len(domain.features)), np.float32)
    answered = 0
    for slot, (key, event) in enumerate(kept):
        waits = event.ts_ms is None
        store.ring[slot, : kernel.R_ROWS] = key, moment(event, newest)
        for e, name in enumerate(event.keys):
            row = store.rows[e].get(name)
            store.ring[slot, kernel.R_ROWS + e] = store.add_row(e, name) if row is None else row
        if len(event.features):
            store.features[slot] = event.features
        elif not waits:
            answered = slot + 1
    store.head[kernel.H_RING_HEAD], store.head[kernel.H_RING_TAIL] = 0, len(kept)
    store.head[kernel.H_FEATURES_HEAD], store.head[kernel.H_NEWEST] = answered, newest
    store._index()
    store.run(np.empty((0, store.columns), np.int64))  # makes room for entities of which only the name is known


def spread(store: MemoryStore, shared: SharedStore, progress: Progress) -> None:
    """Writes all of a memory store to the servers, over what is there."""
    loaded = Loaded(store.domain, shared.prefix)
    loaded.store, token = store, secrets.randbits(62)
    names: list[str] = [""] * store.count
    commands: list[Command] = []
    done = 0

    def send(bucket: int, key: bytes, value: bytes, seconds: int) -> None:
        nonlocal done
        if value:
            commands.append((bucket, ("SET", key, value, "EX", seconds)))
        done += 1
        if len(commands) >= PAGE:
            shared.link.call(commands)
            commands.clear()
            progress(done)

    for e, rows in enumerate(store.rows):
        if not rows:
            continue
        live = loaded.live(e, np.array(list(rows.values()), np.int64)).tolist()
        for (key, row), count in zip(rows.items(), live, strict=True):
            names[row] = key
            _, bucket, name = loaded.name(e, key)
            send(bucket, name, loaded.whole(e, row, count, token).tobytes(), shared.log_s)
    for event_key, event in _remembered(store, names):
        send(*loaded.event_name(event_key), event.encode(), shared.event_s)
    if commands:
        shared.link.call(commands)
    progress(done)


def _remembered(store: MemoryStore, names: Sequence[str]) -> Iterator[tuple[int, Remembered]]:
    head, mask, features_mask = store.head, len(store.ring) - 1, len(store.features) - 1
    none: Any = np.empty(0, np.float32)
    for sequence in range(int(head[kernel.H_RING_HEAD]), int(head[kernel.H_RING_TAIL])):
        key, found, *rows = store.ring[sequence & mask].tolist()
        label, ts_ms = log.label_of(found), found >> 3
        if found & kernel.WAITS:
            yield key, Remembered(label)
            continue
        kept = sequence >= head[kernel.H_FEATURES_HEAD]
        features = store.features[sequence & features_mask].copy() if kept else none
        yield key, Remembered(label, ts_ms, features, tuple(names[row] for row in rows))


def _some(keys: Iterator[bytes]) -> list[bytes]:
    return list(islice(keys, PAGE))


def _bucket(key: bytes) -> int:
    return int(key[key.index(b"{") + 1 : key.index(b"}")])
