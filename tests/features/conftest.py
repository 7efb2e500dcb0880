"""Real servers for the tests of shared state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtest.valkey import Valkey, ValkeyCluster


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as servers:
        yield servers
