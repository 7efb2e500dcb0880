"""Laws of workers that share their state, with a real broker and a real server."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from testbed.valkey import Valkey
from tests.stream.conftest import DOMAIN, Stream, events_of, history, labels_of, rows_of
from vigil.features.history import History
from vigil.features.memory.store import MemoryStore

PARTITIONS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with Valkey("--appendonly", "yes") as started:
        yield started


@contextmanager
def workers(stream: Stream, server: Valkey, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Workers that differ in nothing: names of their own are theirs to find."""
    started = [stream.worker(VIGIL_STATE_URL=server.url) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def until(holds: Callable[[], bool], running: list[subprocess.Popen[str]], within_s: float = 90) -> None:
    """Waits until something holds, as long as the workers run."""
    until_s = time.monotonic() + within_s
    while not holds():
        for process in running:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until_s


def shares(stream: Stream) -> list[int]:
    """How many partitions of the events each member of the group has."""
    group = stream.names["events"]
    members = stream.admin.describe_consumer_groups([group])[group].result().members
    return sorted(sum(at.topic == group for at in member.assignment.topic_partitions) for member in members)


def apart(past: History) -> History:
    """The same payments with no terminal in two partitions, so that no order between partitions counts."""
    past.keys["terminal"] = past.keys["terminal"] * PARTITIONS + past.keys["customer"] % PARTITIONS
    return past


def produce(stream: Stream, past: History, first: int, last: int) -> None:
    """Events of a history, those of a customer (and so of a terminal) in one partition."""
    producer = Producer({"bootstrap.servers": stream.broker.address, "linger.ms": 1})
    for (value, key), customer in list(zip(events_of(past), past.keys["customer"].tolist(), strict=True))[first:last]:
        producer.produce(stream.names["events"], value, key, partition=customer % PARTITIONS)
    assert producer.flush(60) == 0


def check(stream: Stream, past: History) -> None:
    """Each event has one decision, with the features of the offline computation."""
    decisions = stream.decisions()
    assert sorted(int(decision["event_id"]) for decision in decisions) == past.event_ids.tolist()
    assert rows_of(decisions, past).tobytes() == MemoryStore(DOMAIN).replay(past).tobytes()


def test_partitions_move_between_workers_and_back_and_nothing_is_lost_doubled_or_different(
    stream: Stream, server: Valkey
) -> None:
    past = apart(history(150, 12, customers=300, terminals=60))
    half = len(past) // 2
    stream.produce("feedback", labels_of(past))
    stream.run(VIGIL_STATE_URL=server.url)
    with workers(stream, server, 1) as first:
        produce(stream, past, 0, half)
        until(lambda: bool(stream.committed("decisions")), first)
        with workers(stream, server, 1) as second:
            until(lambda: shares(stream) == [1, 2], first + second)
            produce(stream, past, half, len(past))
            until(lambda: len(stream.committed("decisions")) > half, first + second)
            second[0].send_signal(signal.SIGKILL)
            second[0].wait()
        until(lambda: len(stream.committed("decisions")) == len(past), first)
    check(stream, past)


def test_events_wait_while_the_state_is_away_and_go_on_when_it_is_back(stream: Stream) -> None:
    past = apart(history(150, 12, customers=300, terminals=60))
    past.labels[:] = -1
    half = len(past) // 2
    with Valkey("--appendonly", "yes") as server, workers(stream, server, 1) as running:
        produce(stream, past, 0, half)
        until(lambda: bool(stream.committed("decisions")), running)
        server.stop()
        produce(stream, past, half, len(past))
        said = running[0].stderr
        assert said
        while "events wait" not in (line := said.readline()):
            assert line, "the worker ended"
        server.start()
        until(lambda: len(stream.committed("decisions")) == len(past), running)
        running[0].terminate()
        assert running[0].wait(60) == 0
    check(stream, past)
