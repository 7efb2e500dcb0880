"""Laws of the Kafka worker when workers die, the broker goes and partitions move."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

from testbed.served import free_port
from testbed.valkey import Valkey
from tests.stream.conftest import DOMAIN, Stream, events_of, history, last_line, rows_of, running
from vigil.errors import StreamError
from vigil.features.history import UNKNOWN, History
from vigil.features.memory.store import MemoryStore
from vigil.stream.kafka.commits import Commits, Work, begin_writer
from vigil.stream.kafka.config import consumer, producer
from vigil.stream.topics import Topic

WORLDS = 7


def unlabelled(days: int, customers: int, terminals: int) -> History:
    past = history(150, days, customers, terminals)
    past.labels[:] = UNKNOWN
    return past


def apart(past: History) -> list[tuple[bytes, bytes]]:
    """The events as records, in worlds whose entities meet in no other, each in one partition.

    While a worker runs, one partition's new records can reach it before another's: only so is their order certain.
    """
    world = past.keys["customer"] % WORLDS
    past.keys["terminal"] = past.keys["terminal"] * WORLDS + world
    return [(value, b"world %d" % key) for (value, _), key in zip(events_of(past), world, strict=True)]


def assert_each_once_as_offline(stream: Stream, past: History) -> None:
    decisions = stream.decisions()
    assert sorted(int(decision["event_id"]) for decision in decisions) == past.event_ids.tolist()
    assert rows_of(decisions, past).tobytes() == MemoryStore(DOMAIN).replay(past).tobytes()


def moves(stream: Stream, worker: subprocess.Popen[str], end: int, within_s: float = 60) -> None:
    """Returns once the decisions' end lies behind `end`."""
    until_s = time.monotonic() + within_s
    while stream.ends("decisions", committed=False) <= end:
        assert worker.poll() is None, worker.communicate()[1]
        assert time.monotonic() < until_s, "no decision"


def is_inside(stream: Stream, worker: subprocess.Popen[str]) -> bool:
    """Holds a worker up; says whether it is in a transaction, as the broker knows it."""
    worker.send_signal(signal.SIGSTOP)
    looks = [(-1, -1)]
    while len(looks) < 2 or looks[-1] != looks[-2]:  # until what was on its way has come
        looks.append((stream.ends("decisions", committed=True), stream.ends("decisions", committed=False)))
    return looks[-1][0] < looks[-1][1]


def test_workers_killed_at_random_lose_nothing_and_double_nothing(stream: Stream, kills: int) -> None:
    past = unlabelled(30, 400, 80)
    events = events_of(past)
    share = len(events) // kills + 1
    moments = random.Random(5)
    for start in range(0, len(events), share):
        stream.produce("events", events[start : start + share])
        end = stream.ends("decisions", committed=False)
        with running(stream.worker()) as worker:
            if moments.random() < 0.3:  # while it starts
                time.sleep(moments.uniform(0, 2))
            else:
                moves(stream, worker, end)
                time.sleep(moments.uniform(0, 0.05))
            worker.kill()
            assert worker.wait() == -signal.SIGKILL
    stream.run()
    assert_each_once_as_offline(stream, past)


def test_a_worker_killed_inside_a_transaction_loses_nothing_and_doubles_nothing(stream: Stream) -> None:
    past = unlabelled(60, 500, 100)
    stream.produce("events", events_of(past))
    for _ in range(2):
        with running(stream.worker()) as worker:
            moves(stream, worker, stream.ends("decisions", committed=True))
            while not is_inside(stream, worker):
                worker.send_signal(signal.SIGCONT)
                assert worker.poll() is None, worker.communicate()[1]
                time.sleep(0.005)
            worker.kill()
            assert worker.wait() == -signal.SIGKILL
    stream.run()
    assert_each_once_as_offline(stream, past)
    assert len(stream.committed("decisions", "read_uncommitted")) > len(past)


def test_what_a_killed_worker_has_left_open_is_ended_at_once(stream: Stream) -> None:
    topic = Topic(stream.broker.address, stream.names["decisions"])
    make = partial(producer, topic, {}, **{"transactional.id": topic.name, "transaction.timeout.ms": 10_000})
    left, took_s = [begin_writer(make)], list[float]()
    for _ in range(5):
        left[-1].begin_transaction()
        left[-1].produce(topic.name, b"{}")
        assert left[-1].flush(60) == 0
        began_s = time.perf_counter()
        left.append(begin_writer(make))
        took_s.append(time.perf_counter() - began_s)
    assert min(took_s) < 0.4  # a single producer asks, and asks again after half a second
    assert stream.ends("decisions", committed=True) == stream.ends("decisions", committed=False)


def test_a_thread_that_is_abandoned_ends_though_more_was_handed_over(stream: Stream) -> None:
    topic = Topic(stream.broker.address, stream.names["decisions"])
    reader = consumer(topic, topic.name, {})
    commits = Commits(begin_writer(partial(producer, topic, {}, **{"transactional.id": topic.name})), reader)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "vigil-commits")
    stream.broker.stop()
    for _ in range(2):
        commits.put(Work([(topic.name, b"{}", b"k", None)]))
    commits.abandon()
    stream.broker.start()
    thread.join(60)
    assert not thread.is_alive()
    reader.close()


def test_who_is_to_stop_does_not_wait_for_a_broker_that_is_away() -> None:
    make = partial(producer, Topic(f"127.0.0.1:{free_port()}", "none"), {}, **{"transactional.id": "none"})
    began_s = time.monotonic()
    with pytest.raises(StreamError, match="no transactions"):
        begin_writer(make, lambda: True, patient=True)
    assert time.monotonic() - began_s < 15


def test_a_broker_that_goes_and_comes_back_is_waited_for(stream: Stream) -> None:
    past = unlabelled(40, 500, 100)
    events = apart(past)
    stream.produce("events", events[:-1000])
    with running(stream.worker()) as worker:
        moves(stream, worker, 0)
        stream.broker.stop()  # while it works
        stream.broker.start()
        stream.reads_on(worker, "decisions", len(past) - 1000)
        stream.broker.stop(signal.SIGKILL)  # while it waits
        stream.broker.start()
        stream.produce("events", events[-1000:])
        stream.reads_on(worker, "decisions", len(past))
        worker.terminate()
        assert f"{len(past):,} decisions" in last_line(worker)
    assert_each_once_as_offline(stream, past)


def test_partitions_that_move_between_workers_all_the_time_lose_nothing_and_double_nothing(stream: Stream) -> None:
    past = unlabelled(30, 350, 70)
    records = apart(past)
    steps = [signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, None, None]
    shares = np.array_split(np.arange(len(records)), len(steps))
    with Valkey() as valkey, ExitStack() as stack:
        workers: list[subprocess.Popen[str]] = []
        for number, (share, how) in enumerate(zip(shares, steps, strict=True)):
            stream.produce("events", [records[i] for i in share])
            end = stream.ends("decisions", committed=False)
            settings = {"VIGIL_STATE_URL": valkey.url, "VIGIL_STREAM_MEMBER": f"m{number}"}
            workers.append(stack.enter_context(running(stream.worker(state=f"m{number}", **settings))))
            moves(stream, workers[-1], end)
            if how is not None and len(workers) > 1:
                workers.pop(0).send_signal(how)
        stream.reads_on(workers[-1], "decisions", len(past))
    assert_each_once_as_offline(stream, past)
