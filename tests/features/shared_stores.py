"""Shared stores for tests: on servers emptied first, and on a connection that is cut on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from testbed.valkey import Valkey, ValkeyCluster
from tests.features.every_feature import DOMAIN
from vigil.domains.spec import Domain
from vigil.errors import Unavailable
from vigil.features.memory.store import MemoryStore
from vigil.features.shared.connection import Command, Link
from vigil.features.shared.store import SharedStore

TIMEOUT_MS = 5000
Servers = Valkey | ValkeyCluster


class CutLink(Link):
    """A connection that is lost after so many more commands (`after`) have reached their servers."""

    after: int | None = None

    def call(self, commands: Sequence[Command]) -> list[Any]:
        if self.after is None:
            return super().call(commands)
        passed, self.after = commands[: self.after], max(0, self.after - len(commands))
        answers = super().call(passed)
        if len(passed) < len(commands):
            raise Unavailable("cut")
        return answers


def emptied(servers: Servers) -> str:
    """Removes all that the servers hold; their address."""
    for node in servers.nodes if isinstance(servers, ValkeyCluster) else [servers]:
        with node.client() as client:
            client.flushall()
    return servers.url


def store_at(url: str, domain: Domain = DOMAIN) -> SharedStore:
    return SharedStore(domain, CutLink(url, TIMEOUT_MS), TIMEOUT_MS)


def records(store: MemoryStore | SharedStore, entity: int, key: str) -> list[tuple[int, ...]]:
    """What an entity holds of events: (ts_ms, tag, number) of each, sorted."""
    if isinstance(store, SharedStore):
        loaded = store._loaded
        if key not in loaded.store.rows[entity]:
            store._reader.read(loaded, [(entity, key)])
        store = loaded.store
    row = store.rows[entity][key]
    count = int(store.state.counts(np.array([row]))[0])
    return sorted(tuple(record[:3]) for record in store.state.newest_records(entity, row, count).tolist())
