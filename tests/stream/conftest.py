"""A real broker, a small model, and workers as processes that can be killed."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from confluent_kafka import Consumer, IsolationLevel, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from testbed import tiny_model
from testbed.kafka.broker import Broker, NotInstalled
from vigil import domains
from vigil.decisions.record import features_of
from vigil.domains.simulation import simulate
from vigil.features.history import History

DOMAIN = domains.load("payments")
ROLES = ("events", "feedback", "decisions", "alerts", "dead")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME with a small champion."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        tiny_model.store(folder, DOMAIN)
    return folder / "bentoml"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Whose certificates the broker's secure listener shows."""
    return trustme.CA()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Broker]:
    """A broker of the session; without Java or Maven the tests are skipped."""
    folder = tmp_path_factory.mktemp("kafka")
    issued = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "broker.pem").write_bytes(pem + b"".join(part.bytes() for part in issued.cert_chain_pems))
    try:
        with Broker(folder / "broker", keystore=folder / "broker.pem") as running:
            yield running
    except NotInstalled as missing:
        pytest.skip(str(missing))


@dataclass
class Stream:
    """Topics of one test, and the workers on them."""

    broker: Broker
    admin: AdminClient
    names: dict[str, str]
    home: Path
    folder: Path
    address: str

    def arguments(self) -> list[str]:
        """Of `vigil stream` for these topics."""
        at, names = f"kafka://{self.address}/", self.names
        return [
            "stream", "--from", at + names["events"], "--to", at + names["decisions"], "--group", names["events"],
            "--feedback", names["feedback"], "--alerts", names["alerts"], "--dead-letters", names["dead"],
        ]  # fmt: skip

    def worker(self, *more: str, state: str = "state", **settings: str) -> subprocess.Popen[str]:
        """A worker that has been started."""
        # On busy cores a partition may give nothing for long: it is waited for, so that the order is certain.
        ours = {"VIGIL_STATE_DIR": str(self.folder / state), "VIGIL_STREAM_ALIGN_MS": "60000"}
        env = os.environ | {"BENTOML_HOME": str(self.home)} | ours | settings
        command = [sys.executable, "-m", "vigil.cli", *self.arguments(), *more]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(self, *more: str, state: str = "state", **settings: str) -> str:
        """Lets a worker read all there is; gives what it said."""
        with self.worker(*more, "--stop-at-end", state=state, **settings) as process:
            try:
                _, said = process.communicate(timeout=90)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0, said
        return said

    def produce(self, role: str, values: Sequence[tuple[bytes | None, bytes]], headers: Any = None) -> None:
        """Appends records (value, key) to a topic."""
        producer = Producer({"bootstrap.servers": self.broker.address, "partitioner": "murmur2_random"})
        for value, key in values:
            while True:
                try:
                    producer.produce(self.names[role], value, key, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    def abort(self, role: str, count: int) -> list[str]:
        """Leaves records of an aborted transaction in a topic; gives their event ids."""
        ids = [f"aborted{next(_numbers)}" for _ in range(count)]
        writer = self._writer(role, [(json.dumps({"event_id": each}).encode(), each.encode()) for each in ids])
        writer.abort_transaction(60)
        return ids

    def commit(self, role: str, values: Sequence[tuple[bytes, bytes]]) -> None:
        """Appends records (value, key) to a topic in a transaction."""
        self._writer(role, values).commit_transaction(60)

    def _writer(self, role: str, values: Sequence[tuple[bytes, bytes]]) -> Producer:
        """One that has written records in a transaction, which is open."""
        name = f"test-{next(_numbers)}"
        writer = Producer({"bootstrap.servers": self.broker.address, "transactional.id": name})
        writer.init_transactions(60)
        writer.begin_transaction()
        for value, key in values:
            writer.produce(self.names[role], value, key)
        assert writer.flush(60) == 0
        return writer

    def ends(self, role: str, committed: bool) -> int:
        """The sum of the partitions' ends, with or without what an open transaction has written."""
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        asked = {TopicPartition(self.names[role], partition): OffsetSpec.latest() for partition in range(3)}
        looks = self.admin.list_offsets(asked, isolation_level=level)
        return sum(look.result().offset for look in looks.values())

    def committed(self, role: str, isolation: str = "read_committed") -> list[Any]:
        """All records of a topic that a reader sees."""
        reader = Consumer(
            {
                "bootstrap.servers": self.broker.address,
                "group.id": "test",
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
            }
        )
        reader.assign([TopicPartition(self.names[role], partition, 0) for partition in range(3)])
        found, ended = [], 0
        while ended < 3:
            for record in reader.consume(5000, 1.0):
                if record.error() is None:
                    found.append(record)
                else:
                    assert record.error().code() == KafkaError._PARTITION_EOF, record.error()
                    ended += 1
        reader.close()
        return found

    def reads_on(self, worker: subprocess.Popen[str], role: str, count: int, within_s: float = 90) -> None:
        """Returns once a topic has `count` committed records, for which the worker must live."""
        until_s = time.monotonic() + within_s
        while (have := len(self.committed(role))) < count:
            assert worker.poll() is None, worker.communicate()[1]
            assert time.monotonic() < until_s, f"{have} of {count} in {self.names[role]}"

    def decisions(self) -> list[dict[str, Any]]:
        """The decision records."""
        return [json.loads(record.value()) for record in self.committed("decisions")]


@pytest.fixture
def stream(broker: Broker, home: Path, tmp_path: Path) -> Stream:
    """Topics of their own for a test."""
    names = {role: f"{role}-{next(_numbers)}" for role in ROLES}
    broker.create(list(names.values()))
    return Stream(broker, broker.admin(), names, home, tmp_path, broker.address)


_numbers = itertools.count()


def history(first_day: int, days: int, customers: int, terminals: int) -> History:
    """Days of the simulated world, labels and all."""
    made = simulate(0, first_day, days, customers=customers, terminals=terminals)
    return History(DOMAIN, made.event_ids, made.ts_ms, made.keys, made.numbers, made.labels)


def events_of(past: History) -> list[tuple[bytes, bytes]]:
    """The events of a history as records: value, key."""
    columns = [past.event_ids, past.ts_ms, *past.keys.values(), *past.numbers.values()]
    return [
        (
            json.dumps(dict(zip(("event_id", "ts", *past.keys, *past.numbers), row, strict=True))).encode(),
            b"%d" % row[2],
        )
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def labels_of(past: History) -> list[tuple[bytes, bytes]]:
    """The labels of a history as records."""
    pairs = zip(past.event_ids.tolist(), past.labels.tolist(), strict=True)
    return [(b'{"event_id":%d,"label":%d}' % pair, b"%d" % pair[0]) for pair in pairs]


def rows_of(decisions: Sequence[dict[str, Any]], past: History) -> np.ndarray:
    """The features of the decisions in the order of the history, float32 [n, F]."""
    found = {int(decision["event_id"]): b64decode(decision["features"]) for decision in decisions}
    return features_of([found[event_id] for event_id in past.event_ids.tolist()])


def event(i: int, **changed: object) -> bytes:
    """An event that can be scored, but for what is changed."""
    values = {"event_id": f"e{i}", "ts": 1_600_000_000_000 + i, "customer": i % 3, "terminal": i % 5, "amount": 10.5}
    return json.dumps(values | changed).encode()


def last_line(process: subprocess.Popen[str], within_s: float = 60) -> str:
    """What a worker that ends by itself has said."""
    try:
        return process.communicate(timeout=within_s)[1].strip()
    finally:
        process.kill()


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A worker that is killed at the end of the block, where it still runs."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """How often workers are killed at random: STREAM_KILLS, or a few."""
    return int(os.environ.get("STREAM_KILLS", "4"))
