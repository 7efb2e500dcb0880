"""Laws of stream workers that KEDA scales by the lag in Kafka. They are one story, told in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.commands import RELEASE, Cluster, until
from tests.cluster.conftest import VALUES

pytestmark = [pytest.mark.keda, pytest.mark.timeout(900)]
SCALED = Path(__file__).with_name("keda-values.yaml")
BROKER = f"{RELEASE}-kafka:9092"
EVENTS = 1000
# Events of a transaction that is open until SIGTERM: nobody can read them before.
TRANSACTION = """
import json, signal, sys, time
from confluent_kafka import Producer
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
topic, broker, count = "vigil.events.payments", sys.argv[1], int(sys.argv[2])
writer = Producer({"bootstrap.servers": broker, "transactional.id": "live", "transaction.timeout.ms": 600_000})
writer.init_transactions(60)
writer.begin_transaction()
for i in range(count):
    now_ms = time.time_ns() // 1_000_000
    event = {"event_id": f"open-{i}", "ts": now_ms, "customer": i % 9, "terminal": i % 7, "amount": 20.0}
    writer.produce(topic, json.dumps(event), str(i % 9))
writer.flush(60)
print("open", flush=True)
signal.sigwait({signal.SIGTERM})
writer.commit_transaction(60)
"""
LABEL = """
import sys
from confluent_kafka import Producer
writer = Producer({"bootstrap.servers": sys.argv[1]})
writer.produce("vigil.feedback", b'{"event_id": "open-0", "label": 1}')
assert writer.flush(60) == 0
"""
READ = """
import json, sys
from vigil.stream.topics import Topic
from vigil.stream.kafka.topic_reader import TopicReader
batches = TopicReader(Topic.parse(sys.argv[1]), {}).batches(1000)
ids = [json.loads(value)["event_id"] for values, _ in batches for value in values]
print(len(ids), len(set(ids)))
"""


@pytest.fixture(scope="module")
def scaled(cluster: Cluster) -> Iterator[Cluster]:
    """The chart with stream workers that KEDA scales; not left."""
    cluster.apply("install", VALUES, "--values", str(SCALED), "--wait-for-jobs")
    yield cluster
    cluster.helm("uninstall", "--wait", "--timeout", "120s")


def workers(cluster: Cluster) -> int:
    """How many there are."""
    return len(cluster.pods("stream"))


def decided(cluster: Cluster) -> list[int]:
    """How many decisions there are, and of how many events."""
    return [
        int(word) for word in cluster.done("read", "python", "-c", READ, f"kafka://{BROKER}/vigil.decisions").split()
    ]


def test_there_is_no_worker_while_there_is_nothing_to_read(scaled: Cluster) -> None:
    until("no worker", lambda: workers(scaled) == 0)
    assert decided(scaled) == [0, 0]


def test_events_bring_workers_that_decide_each_once_and_go(scaled: Cluster) -> None:
    topic = f"kafka://{BROKER}/vigil.events.payments"
    scaled.done("feed", "vigil", "simulate", "--to", topic, "--rate", "0", "--count", str(EVENTS))
    until("a worker", lambda: workers(scaled) > 0)
    until("no worker", lambda: workers(scaled) == 0, limit_s=180)
    assert decided(scaled) == [EVENTS, EVENTS]


def test_much_that_waits_brings_more_and_they_go_although_the_mark_of_its_transaction_stays(scaled: Cluster) -> None:
    scaled.start("write", "python", "-c", TRANSACTION, BROKER, str(EVENTS))
    try:
        until("as many workers as may be", lambda: workers(scaled) == 2)
        until("the events", lambda: "open" in scaled.kubectl("logs", "write"))
        scaled.kubectl("exec", "write", "--", "python", "-c", "import os; os.kill(1, 15)")
        scaled.kubectl("wait", "pod/write", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    finally:
        scaled.kubectl("delete", "pod", "write", "--now")
    until("no worker", lambda: workers(scaled) == 0, limit_s=180)
    assert decided(scaled) == [2 * EVENTS, 2 * EVENTS]


def test_a_label_brings_a_worker(scaled: Cluster) -> None:
    scaled.done("write", "python", "-c", LABEL, BROKER)
    until("a worker", lambda: workers(scaled) > 0)
    until("no worker", lambda: workers(scaled) == 0, limit_s=180)
