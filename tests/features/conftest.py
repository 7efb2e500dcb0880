"""Real servers for the tests of shared state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.valkey import Valkey, ValkeyCluster
from vigil.features.compiled import machine


@pytest.fixture(scope="session", autouse=True)
def one_set_of_types() -> Iterator[None]:
    """Whatever the tests do, each compiled function is called with one set of types: an image has it for no others."""
    yield
    assert {name: len(made.signatures) for name, made in machine.called.items() if len(made.signatures) > 1} == {}


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as servers:
        yield servers
