"""A cluster, and the chart on it: `make chart-live` says where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.commands import RELEASE, Cluster, image

VALUES = Path(__file__).with_name("live-values.yaml")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A namespace of its own, gone afterwards."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG names no cluster: make chart-live brings one up")
    found = Cluster(f"vigil-live-{os.getpid()}", image())
    found.kubectl("create", "namespace", found.namespace)
    found.kubectl("label", "namespace", found.namespace, "pod-security.kubernetes.io/enforce=restricted")
    try:
        yield found
    finally:
        found.kubectl("delete", "namespace", found.namespace, "--timeout=120s")


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Cluster:
    """The chart with two pods and shared state."""
    cluster.apply("install", VALUES)
    assert RELEASE in cluster.helm("status")
    return cluster
