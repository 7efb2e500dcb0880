"""`python -m loadtest.stream`: Kafka to Kafka, exactly once, with features, model and policy on every event."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import psutil
import typer
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from rich.console import Console

from loadtest.environment import peers_python
from testbed.kafka.broker import Broker
from testbed.valkey import Valkey
from vigil import domains
from vigil.errors import VigilError
from vigil.feed.simulator import stream

DOMAIN = "payments"
TOPICS = ("events", "feedback", "decisions", "alerts", "dead")
Records = list[tuple[bytes, str]]

_TS = re.compile(rb'"ts":(\d+)')

console = Console()


class NotShared(VigilError):
    """Workers of which not each has got partitions; the message says what they have."""


def main(
    events: Annotated[int, typer.Option(help="Backlog for the rate.")] = 1_000_000,
    shared_events: Annotated[int, typer.Option(help="Backlog for the rate with shared state.")] = 200_000,
    rate: Annotated[int, typer.Option(help="Events a second for latency, recovery and flatness.")] = 10_000,
    seconds: Annotated[int, typer.Option(help="Of steady load for the latency.")] = 20,
    flat: Annotated[int, typer.Option(help="Seconds of steady load for flatness; 600 for the long one.")] = 120,
    flat_rate: Annotated[int, typer.Option(help="Events a second of it.")] = 50_000,
    peer_events: Annotated[int, typer.Option(help="Backlog for Quix Streams; 0: without it.")] = 40_000,
) -> None:
    """All, each run with a broker, topics and state of its own."""
    try:
        with tempfile.TemporaryDirectory(prefix="vigil-stream-") as folder:
            made = records(max(events, shared_events + 1000, 200_000))
            backlog(Path(folder), made[:events], read_beside=False)
            ours = backlog(Path(folder), made[:events], read_beside=True)
            if peer_events:
                theirs = peer(Path(folder), made[:peer_events])
                console.print(f"beside Quix Streams: {ours / theirs:.1f} x")
            one, two = (shared(Path(folder), made[: shared_events + 1000], workers) for workers in (1, 2))
            console.print(f"two workers against one, CPU an event: {two / one - 1:+.0%}")
            steady(Path(folder), made, rate, seconds, kill=False)
            steady(Path(folder), made, rate, seconds, kill=True)
            flatness(Path(folder), made, flat_rate, flat)
    except VigilError as failure:
        console.print(f"[red]bench-stream: {failure}")
        raise typer.Exit(1) from None


def records(count: int) -> Records:
    """Simulated events as JSON, and their keys."""
    found: Records = []
    for step in stream(domains.load(DOMAIN), 0, 183):
        if step.event is not None:
            found.append((msgspec.json.encode(step.event), str(step.event["customer"])))
            if len(found) == count:
                break
    return found


class Run:
    """A broker with topics, and workers that can be killed; all end with the block."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        self.broker = Broker(self.folder / "kafka")

    def __enter__(self) -> Run:
        self.broker.__enter__()
        self.worker: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self._lap = 0
        self.begin_lap()
        return self

    def begin_lap(self) -> None:
        """Ends the workers; those that are started from now on have topics, state and group of their own."""
        self._end_workers()
        self._lap += 1
        self.broker.create(tuple(map(self.topic, TOPICS)))

    def topic(self, role: str) -> str:
        """The name of a topic in this lap."""
        return f"{role}-{self._lap}"

    def __exit__(self, *failure: object) -> None:
        self._end_workers()
        self.broker.stop()

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.workers.clear()

    def start(self, *more: str, **settings: str) -> subprocess.Popen[bytes]:
        """Starts a worker, with more arguments and settings."""
        at, topic = f"kafka://{self.broker.address}/", self.topic
        command = [sys.executable, "-m", "vigil.cli", "stream", "--group", self.topic("vigil")]
        command += ["--from", at + topic("events"), "--to", at + topic("decisions"), "--feedback", topic("feedback")]
        command += ["--alerts", topic("alerts"), "--dead-letters", topic("dead")]
        env = os.environ | {"VIGIL_STATE_DIR": str(self.folder / self.topic("state"))} | settings
        self.worker = subprocess.Popen([*command, *more], env=env)
        self.workers.append(self.worker)
        return self.worker

    def fill(self, made: Records) -> None:
        """Produces all, and returns when they have arrived."""
        producer = self.producer()
        for value, key in made:
            producer.produce(self.topic("events"), value, key)
        producer.flush()

    def producer(self) -> Producer:
        """A producer that keeps the order of a key."""
        return Producer(
            {
                "bootstrap.servers": self.broker.address,
                "enable.idempotence": True,
                "linger.ms": 5,  # the default of Kafka's own clients since 4.0
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 0,
            }
        )

    def reader(self) -> Consumer:
        """A `read_committed` reader of the decisions, from their beginning."""
        reader = Consumer(
            {
                "bootstrap.servers": self.broker.address,
                "group.id": "bench",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 5,
                "fetch.queue.backoff.ms": 5,
                "log_level": 0,
            }
        )
        reader.assign([TopicPartition(self.topic("decisions"), partition, 0) for partition in range(3)])
        return reader

    def shares(self) -> list[int]:
        """How many partitions of the events each worker has."""
        admin = AdminClient({"bootstrap.servers": self.broker.address, "log_level": 0})
        members = admin.describe_consumer_groups([group := self.topic("vigil")])[group].result().members
        return [
            sum(at.topic == self.topic("events") for at in member.assignment.topic_partitions) for member in members
        ]

    def usage(self) -> tuple[float, float]:
        """CPU seconds and resident MB of the workers that run."""
        cpu_s = resident_mb = 0.0
        for worker in self.workers:
            if worker.poll() is None:
                process = psutil.Process(worker.pid)
                cpu_s += sum(process.cpu_times()[:2])
                resident_mb += process.memory_info().rss / 1e6
        return cpu_s, resident_mb


def backlog(folder: Path, made: Records, read_beside: bool) -> float:
    """How fast a backlog is worked off, events/s of the second of two laps: the first warms the broker.

    Args:
        folder: for the state of it all.
        made: the events.
        read_beside: whether a reader takes all decisions meanwhile; else they are read and counted afterwards.
    """
    rate = 0.0
    with Run(folder, f"backlog-{read_beside}") as run:
        for lap in ("the broker cold", "the broker warm"):
            run.fill(made)
            reader = run.reader()
            run.start()
            seen, marks = 0, list[tuple[int, float, float, float]]()  # at the first decision and at the end
            for wanted in (1, len(made)):
                while seen < wanted:
                    seen = seen + read(reader) if read_beside else readable(reader)
                marks.append((seen, time.perf_counter(), run.usage()[0], run.broker.cpu_s()))
            if not read_beside:
                seen = 0
                while seen < len(made):
                    seen += read(reader)
            reader.close()
            n, took_s, worker_s, broker_s = (after - before for before, after in zip(*marks, strict=True))
            rate = n / took_s
            console.print(
                f"backlog, {n:,}, {lap}: {rate:,.0f} events/s, CPU us an event: worker {worker_s / n * 1e6:.1f}, "
                f"broker {broker_s / n * 1e6:.1f}; decisions read {'beside' if read_beside else 'afterwards'}"
            )
            run.begin_lap()
    return rate


def read(reader: Consumer) -> int:
    """Takes what is there, or waits a little; how many records."""
    return sum(record.error() is None for record in reader.consume(10_000, 0.02))


def readable(reader: Consumer) -> int:
    """How many decisions are committed; some more, as the end of each transaction counts as a record."""
    time.sleep(0.03)  # asking costs the broker time, too
    return sum(reader.get_watermark_offsets(place, 5.0)[1] for place in reader.assignment())


def peer(folder: Path, made: Records) -> float:
    """The same of Quix Streams, with two features instead of 38 and no model."""
    with Run(folder, "peer") as run:
        run.fill(made)
        reader = run.reader()
        program = str(Path(__file__).parent / "peers" / "quix_windows.py")
        arguments = [run.broker.address, run.topic("events"), run.topic("decisions"), str(run.folder / "quix")]
        run.workers.append(subprocess.Popen([peers_python(), program, *arguments], stderr=subprocess.DEVNULL))
        seen = first = 0
        first_s, until_s = 0.0, time.monotonic() + 120
        while seen < len(made) and time.monotonic() < until_s:
            seen += read(reader)
            if seen and not first:
                first_s, first = time.perf_counter(), seen
        rate = (seen - first) / (time.perf_counter() - first_s)
        reader.close()
    console.print(f"Quix Streams, {seen:,} events, two windows, no model: {rate:,.0f} events/s")
    return rate


def shared(folder: Path, made: Records, workers: int) -> float:
    """How fast workers with one Redis work off what is produced at once; CPU us an event of workers and server."""
    with Valkey() as server, Run(folder, f"shared-{workers}") as run:
        reader = run.reader()
        for _ in range(workers):
            run.start(VIGIL_STATE_URL=server.url, VIGIL_STATE_TIMEOUT_MS="2000")
        until_s = time.monotonic() + 60
        while len(shares := run.shares()) < workers or not all(shares):
            if time.monotonic() > until_s:
                raise NotShared(f"{workers} workers have {shares} partitions")
        warm(run, reader, made[:1000])
        worker_s, server_s, began_s = run.usage()[0], server.cpu_s(), time.perf_counter()
        producer = run.producer()
        for value, key in made[1000:]:
            producer.produce(run.topic("events"), value, key)
        seen, count = 0, len(made) - 1000
        while seen < count:
            producer.poll(0)
            seen += read(reader)
        took_s = time.perf_counter() - began_s
        worker_us, server_us = ((run.usage()[0] - worker_s) / count * 1e6, (server.cpu_s() - server_s) / count * 1e6)
        reader.close()
    console.print(
        f"{workers} on Redis, {count:,}: {count / took_s:,.0f} events/s, "
        f"CPU us an event: workers {worker_us:.1f}, server {server_us:.1f}"
    )
    return worker_us + server_us


def steady(folder: Path, made: Records, rate: int, seconds: int, kill: bool) -> None:
    """Latencies from produced to read at a steady rate; with `kill`, the longest wait around a kill and restart."""
    with Run(folder, "kill" if kill else "steady") as run:
        reader = run.reader()
        run.start()
        warm(run, reader, made[:1000])
        feeding = Feed(run, made[1000:], rate, seconds)
        feeding.start()
        latencies, ids, end_s = list[float](), list[bytes](), time.time() + seconds + 30
        killed = not kill
        while len(ids) < feeding.count and time.time() < end_s:
            if not killed and len(ids) > feeding.count // 2:
                killed = True
                assert run.worker
                run.worker.kill()
                run.worker.wait()
                run.start()
            first = reader.poll(0.005)  # `consume` would wait for more before it gives what is there
            found = [] if first is None else [first, *reader.consume(5000, 0)]
            records, now_s = [record for record in found if record.error() is None], time.time()
            for record in records:
                number = (record.value() or b"").split(b'"', 4)[3]
                ids.append(number)
                latencies.append(now_s - feeding.sent_s[number])
        feeding.join()
        reader.close()
    ms = np.array(latencies[len(latencies) // 5 :]) * 1000
    lost, doubled = feeding.count - len(set(ids)), len(ids) - len(set(ids))
    what = f"kill -9 and restart at {rate:,}/s" if kill else f"steady {rate:,}/s"
    p50, p99 = np.quantile(ms, [0.5, 0.99])
    console.print(f"{what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {ms.max():,.0f} ms; lost {lost}, doubled {doubled}")


def flatness(folder: Path, made: Records, rate: int, seconds: int) -> None:
    """Memory and lag of the worker in quarters of a long steady run."""
    with Run(folder, "flat") as run:
        reader = run.reader()
        run.start()
        warm(run, reader, made[:1000])
        feeding = Feed(run, made[1000:], rate, seconds)
        feeding.start()
        seen, quarters, latencies, sizes = 0, list[str](), list[float](), list[float]()
        while seen < feeding.count:
            records = [record for record in reader.consume(10_000, 0.02) if record.error() is None]
            if records:
                latencies.append(time.time() - records[0].timestamp()[1] / 1000)
                sizes.append(run.usage()[1])
            seen += len(records)
            if seen >= feeding.count * (len(quarters) + 1) // 4:
                p50, p99 = np.quantile(latencies, [0.5, 0.99]) * 1000
                quarters.append(f"{min(sizes):,.0f} to {max(sizes):,.0f} MB, {p50:.0f} and {p99:.0f} ms")
                latencies.clear()
                sizes.clear()
        feeding.join()
        reader.close()
    what = f"{seconds} s at {rate:,}/s, memory and p50 and p99 written to read, by quarter"
    console.print(f"{what}: {'; '.join(quarters)}")


def warm(run: Run, reader: Consumer, made: Records) -> None:
    """Returns once the worker has answered these."""
    run.fill(made)
    seen = 0
    while seen < len(made):
        seen += sum(record.error() is None for record in reader.consume(1000, 0.1))


class Feed(threading.Thread):
    """Produces at a rate, ever new events; `sent_s` says when each was, by its id.

    What was made is produced as often as needed, as other events, each lap behind the one before in event time: the
    last at the times it was made for, as no event may be ahead of the clock.
    """

    def __init__(self, run: Run, made: Records, rate: int, seconds: int) -> None:
        super().__init__(daemon=True)
        self.sent_s: dict[bytes, float] = {}
        self.count = rate * seconds
        self._producer, self._topic, self._made, self._rate = run.producer(), run.topic("events"), made, rate
        self._span_ms = int(_TS.search(made[-1][0])[1]) - int(_TS.search(made[0][0])[1])  # type: ignore[index]

    def run(self) -> None:
        """Sends, on schedule."""
        began_s, last = time.perf_counter(), (self.count - 1) // len(self._made)
        for i in range(self.count):
            lap, place = divmod(i, len(self._made))
            value, key = self._made[place]
            if lap < last:
                head, ts, tail = _TS.split(value, 1)
                ts_ms = int(ts) - (last - lap) * self._span_ms
                value = b'{"event_id":"%d-%b"ts":%d%b' % (lap, head[len(b'{"event_id":"') :], ts_ms, tail)
            if i % 20 == 0:
                self._producer.poll(0)
                if (early_s := began_s + i / self._rate - time.perf_counter()) > 0:
                    time.sleep(early_s)
            self.sent_s[value.split(b'"', 4)[3]] = time.time()
            self._producer.produce(self._topic, value, key)
        self._producer.flush()


if __name__ == "__main__":
    typer.run(main)
