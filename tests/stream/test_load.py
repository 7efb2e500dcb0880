"""Locust's Kafka callers, answered by a stream worker's committed decisions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from confluent_kafka import Producer

from loadtest.payments import payments
from testbed.kafka.broker import Broker
from testbed.served import LOCALHOST, ROOT, Process, free_port

GATES = """
[kafka]
steps = [{seconds = 6, per_s = 20}]
warm_s = 2
gates = {failed_share = 0.0, goodput_share = 0.5}
"""
TOPICS = ["vigil.events.payments", "vigil.feedback", "vigil.decisions", "vigil.alerts", "vigil.dead-letter"]


class Worker(Process):
    """A stream worker, ready once it has decided what was there before it."""

    def __init__(self, broker: Broker, home: Path, folder: Path) -> None:
        self.port, at = free_port(), f"kafka://{broker.address}/"
        own = {"BENTOML_HOME": str(home), "VIGIL_STATE_DIR": str(folder), "VIGIL_STREAM_METRICS_PORT": str(self.port)}
        command = [sys.executable, "-m", "vigil.cli", "stream", "--from", at + TOPICS[0], "--to", at + TOPICS[2]]
        super().__init__(command, folder / "log", own)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOCALHOST}:{self.port}/metrics", timeout=5) as answer:
                return b'vigil_stream_records_total{outcome="decision"} 1.0' in answer.read()
        except OSError:
            return False


def test_a_payment_is_answered_once_its_decision_is_committed(broker: Broker, home: Path, tmp_path: Path) -> None:
    broker.create(TOPICS)
    producer = Producer({"bootstrap.servers": broker.address})
    producer.produce(TOPICS[0], json.dumps(next(payments(0))))
    producer.flush(60)
    (tmp_path / "gates.toml").write_text(GATES)
    files = "loadtest/locustfile.py,loadtest/users/over_kafka.py"
    command = [sys.executable, "-m", "locust", "--locustfile", files, "--headless", "--kafka", broker.address]
    command += ["--scenario", "kafka", "--gates", str(tmp_path / "gates.toml")]
    command += ["--report", str(tmp_path / "load.html"), "--only-summary", "KafkaOne"]
    with Worker(broker, home, tmp_path):
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Kafka, a payment" in (tmp_path / "load.html").read_text()
