"""Whole states from one place to another: memory, a snapshot on disk, servers."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import redis

from vigil.domains.spec import Domain
from vigil.errors import StateError
from vigil.features.compiled.state import Event
from vigil.features.memory.durable import State, folder_of, seed
from vigil.features.memory.snapshot import read_snapshot, write_snapshot
from vigil.features.memory.store import MemoryStore
from vigil.features.shared.cache import Loaded, Remembered, decode
from vigil.features.shared.connection import Command
from vigil.features.shared.store import SharedState, SharedStore
from vigil.settings import MEMORY, Settings, redact

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
        with connect(domain, settings) as shared:
            store = gather(shared.store, progress)
    write_snapshot(store, folder)
    return store


def load(domain: Domain, folder: Path) -> MemoryStore:
    """The state of a snapshot that `export` wrote.

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


def install(store: MemoryStore, settings: Settings, replace: bool, progress: Progress) -> bool:
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
    with connect(store.domain, settings) as shared:
        for keys in filter(None, pages(shared.store)):
            if not replace:
                return False
            shared.store.link.call([(_bucket(key), ("UNLINK", key)) for key in keys])
        scatter(store, shared.store, progress)
    return True


def location(domain: Domain, settings: Settings) -> str:
    """Where `settings` say the state of a domain is, for people."""
    if settings.state_url == MEMORY:
        return str(folder_of(domain, settings))
    return redact(settings.state_url)


def size(store: MemoryStore) -> int:
    """Entities and remembered events of a state."""
    return store.count + store.state.remembered


def connect(domain: Domain, settings: Settings) -> SharedState:
    """The shared state of a domain, with patience."""
    patience_ms = max(settings.state_timeout_ms, PATIENT_MS)
    return SharedState(domain, settings.model_copy(update={"state_timeout_ms": patience_ms}))


def pages(shared: SharedStore) -> Iterator[list[bytes]]:
    """Keys of all that the servers hold of a domain, at most some `PAGE` at a time; some may come twice."""
    shared.link.call([])  # refuses where nobody answers
    for pool in shared.link.masters():
        scan = redis.Redis(connection_pool=pool).scan_iter(shared.prefix + b"*", PAGE)
        while found := shared.link.within_timeout(partial(_some, scan)):
            yield [key for key in found if key != shared.common.key]


def gather(shared: SharedStore, progress: Progress) -> MemoryStore:
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
    shared.common.meet()
    loaded.store.seed = shared.common.seed
    _remember(loaded.store, events)
    return loaded.store


def _remember(store: MemoryStore, events: dict[int, Remembered]) -> None:
    """Has a store that has its entities remember events."""
    newest_ms = max((event.ts_ms or 0 for event in events.values()), default=0)

    def age(event: Event) -> tuple[bool, int]:  # those without features are forgotten first
        return event.ts_ms is None or len(event.features) > 0, newest_ms if event.ts_ms is None else event.ts_ms

    found = [
        Event(
            key,
            event.label,
            event.ts_ms,
            event.features,
            [store.row_of(e, name) for e, name in enumerate(event.keys)],
            event.quanta,
        )
        for key, event in events.items()
    ]
    store.state.remember(sorted(found, key=age)[-store.domain.most_remembered :], newest_ms)
    store.state.reserve(store.count)  # also for entities of which only the name is known


def scatter(store: MemoryStore, shared: SharedStore, progress: Progress) -> None:
    """Writes all of a memory store to the servers, over what is there."""
    shared.common.set(store.newest_ms, store.seed)
    loaded, token = Loaded(store.domain, shared.prefix, store), secrets.randbits(62)
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
        live = loaded.state.count_live(e, np.array(list(rows.values()), np.int64)).tolist()
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
    for event in store.state.events():
        keys = tuple(names[row] for row in event.rows)
        yield event.key, Remembered(event.label, event.ts_ms, event.features, keys, tuple(event.quanta))


def _some(keys: Iterator[bytes]) -> list[bytes]:
    return list(islice(keys, PAGE))


def _bucket(key: bytes) -> int:
    return int(key[key.index(b"{") + 1 : key.index(b"}")])
