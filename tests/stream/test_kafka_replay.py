"""Laws of replaying a topic of decisions, with a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from confluent_kafka import Producer

from tests.stream.conftest import Stream, events_of, history, labels_of
from vigil.stream.kafka.topic_reader import TopicReader
from vigil.stream.topics import Topic


def replay(stream: Stream, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"BENTOML_HOME": str(stream.home), "VIGIL_STATE_DIR": str(stream.folder), "COLUMNS": "200"}
    at = f"kafka://{stream.broker.address}/"
    command = [sys.executable, "-m", "vigil.cli", "replay", "--from", at + stream.names["decisions"], *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_what_a_stream_has_decided_comes_out_the_same_and_one_other_bit_is_found(stream: Stream) -> None:
    past = history(150, 20, customers=300, terminals=60)
    stream.produce("events", events_of(past))
    stream.run()
    good = replay(stream)
    assert good.returncode == 0, good.stderr
    assert f"{len(past):,} of {len(past):,} records come out the same to the last bit" in good.stdout
    odd = stream.decisions()[0] | {"risk": 0.123456}
    stream.produce("decisions", [(json.dumps(odd).encode(), b"k")])
    bad = replay(stream)
    assert bad.returncode == 1
    assert "1 differ" in bad.stdout


def test_labels_of_the_feedback_topic_price_another_model(stream: Stream) -> None:
    past = history(150, 5, customers=300, terminals=60)
    stream.produce("events", events_of(past))
    stream.produce("feedback", labels_of(past))
    stream.run()
    labels = f"kafka://{stream.broker.address}/{stream.names['feedback']}"
    done = replay(stream, "--model", "champion", "--labels", labels)
    assert f"0 of {len(past):,} decisions would be others" in done.stdout, done.stderr
    assert f"{len(past):,} labelled events" in done.stdout


def test_a_topic_is_read_to_its_end_and_what_was_not_committed_is_not(stream: Stream) -> None:
    topic = Topic(stream.broker.address, stream.names["decisions"])
    assert list(TopicReader(topic, {}).batches(100)) == []
    stream.produce("decisions", [(b"%d" % i, b"%d" % i) for i in range(1000)])
    producer = Producer({"bootstrap.servers": topic.brokers, "transactional.id": "aborting"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(50):
        producer.produce(topic.name, b"never")
    producer.flush(30)
    producer.abort_transaction(30)
    whole = TopicReader(topic, {})
    batches = list(whole.batches(100))
    assert sorted(int(value) for values, _ in batches for value in values) == list(range(1000))
    reached = [done for _, done in batches]
    assert reached == sorted(reached)
    assert reached[-1] <= whole.total
