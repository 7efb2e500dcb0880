"""Laws of a service with its state on a volume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.commands import RELEASE, Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
VALUES = Path(__file__).with_name("volume-values.yaml")
SCORE = """
import json, time, urllib.request as web
event = {"event_id": "kept", "ts": time.time_ns() // 1_000_000, "customer": "C1", "terminal": "T1", "amount": 20.0}
address, headers = "http://127.0.0.1:3000/v1/payments/score", {"content-type": "application/json", "x-api-key": "KEY"}
call = web.Request(address, json.dumps(event).encode(), headers)
print(web.urlopen(call).read().decode())
"""
RECORD = """
import urllib.request as web
print(web.urlopen(web.Request("http://127.0.0.1:3000/v1/decisions/kept", headers={"x-api-key": "KEY"})).read().decode())
"""


@pytest.fixture(scope="module")
def kept(cluster: Cluster) -> Iterator[Cluster]:
    """The chart with state in memory, on a volume; neither is left."""
    cluster.apply("install", VALUES)
    yield cluster
    cluster.helm("uninstall", "--wait", "--timeout", "120s")
    cluster.kubectl("delete", "persistentvolumeclaims", "--all", "--timeout=60s")


def test_a_stopped_pod_comes_back_with_its_decision_records(kept: Cluster) -> None:
    [pod] = kept.pods()
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    score, record = (program.replace("KEY", kept.key()) for program in (SCORE, RECORD))
    kept.python(name, score)
    until("the record", lambda: '"kept"' in kept.python(name, record))
    before = kept.python(name, record)
    kept.kubectl("delete", "pod", name, "--now")
    until("another pod", lambda: [pod["metadata"]["uid"] for pod in kept.pods()] not in ([], [uid]))
    kept.kubectl("rollout", "status", f"statefulset/{RELEASE}", "--timeout=180s")
    assert kept.python(name, record) == before
