"""Laws of the Kafka worker's surroundings: secured brokers, readers no one here wrote, metrics."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import polars as pl
import pytest
import trustme
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place
from kafka import KafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from testbed.kafka.broker import PASSWORD, USER
from testbed.served import free_port
from tests.stream.conftest import DOMAIN, Stream, event, events_of, history, last_line, rows_of, running
from vigil.features.history import UNKNOWN
from vigil.features.memory.store import MemoryStore


def secured(stream: Stream, authority: trustme.CA, **changed: str) -> dict[str, str]:
    """Settings for a worker that speaks SASL_SSL."""
    authority.cert_pem.write_to_path(str(stream.folder / "ca.pem"))
    values = {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(stream.folder / "ca.pem"),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
    } | changed
    path = stream.folder / "client.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return {"VIGIL_KAFKA_PROPERTIES": str(path)}


def test_a_worker_speaks_to_a_secured_broker(stream: Stream, authority: trustme.CA) -> None:
    stream.produce("events", [(event(i), b"k") for i in range(9)])
    stream.address = stream.broker.secure_address
    stream.run(**secured(stream, authority))
    assert len(stream.decisions()) == 9


def test_the_authorities_of_the_process_are_those_of_its_clients_too(stream: Stream, authority: trustme.CA) -> None:
    """As the chart's `tls.caSecret` names them."""
    stream.produce("events", [(event(i), b"k") for i in range(9)])
    stream.address = stream.broker.secure_address
    settings = secured(stream, authority, **{"ssl.ca.location": ""})
    path = Path(settings["VIGIL_KAFKA_PROPERTIES"])
    path.write_text(path.read_text().replace("ssl.ca.location=\n", ""))
    stream.run(**settings, SSL_CERT_FILE=str(stream.folder / "ca.pem"))
    assert len(stream.decisions()) == 9


def test_a_wrong_password_is_a_line(stream: Stream, authority: trustme.CA) -> None:
    stream.address = stream.broker.secure_address
    with running(stream.worker(**secured(stream, authority, **{"sasl.password": "wrong"}))) as worker:
        said = last_line(worker)
    assert worker.returncode == 1
    assert said.splitlines()[-1].startswith(f"error no broker answers at {stream.address}: ")
    assert "Authentication failed during authentication due to invalid credentials" in said


def test_a_broker_of_another_authority_is_a_line(stream: Stream, authority: trustme.CA) -> None:
    settings = secured(stream, authority)
    trustme.CA().cert_pem.write_to_path(str(stream.folder / "ca.pem"))
    stream.address = stream.broker.secure_address
    with running(stream.worker(**settings)) as worker:
        said = last_line(worker)
    assert worker.returncode == 1
    assert said.splitlines()[-1].startswith(f"error no broker answers at {stream.address}: ")
    assert "certificate verify failed" in said


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_another_client_reads_each_decision_once_where_it_reads_committed_ones(stream: Stream, isolation: str) -> None:
    stream.produce("events", [(event(i), b"k%d" % i) for i in range(3000)])
    aborted = stream.abort("decisions", 50)
    stream.run()
    aborted += stream.abort("decisions", 50)
    reader = KafkaConsumer(bootstrap_servers=stream.broker.address, isolation_level=isolation)
    places = [TopicPartition(stream.names["decisions"], partition) for partition in range(3)]
    reader.assign(places)
    reader.seek_to_beginning()
    ends, ids = reader.end_offsets(places), list[str]()
    while any(reader.position(place) < ends[place] for place in places):
        for records in reader.poll(1000).values():
            ids += [json.loads(record.value)["event_id"] for record in records]
    reader.close()
    extra = [] if isolation == "read_committed" else aborted
    assert sorted(ids) == sorted([f"e{i}" for i in range(3000)] + extra)


def test_files_go_into_a_topic_and_come_out_of_one(stream: Stream) -> None:
    past = history(150, 5, 300, 60)
    past.labels[:] = UNKNOWN
    events = events_of(past)
    (stream.folder / "in.jsonl").write_bytes(b"\n".join([*(value for value, _ in events), b"{"]))
    into = f"kafka://{stream.address}/{stream.names['decisions']}"
    said = stream.run("--from", str(stream.folder / "in.jsonl"), "--to", into)
    assert f"event {len(past) + 1:,} refused".replace(",", "") in said
    assert f"{len(past):,} decisions, 1 refused; delivered at least once" in said
    assert rows_of(stream.decisions(), past).tobytes() == MemoryStore(DOMAIN).replay(past).tobytes()
    assert all(json.loads(r.value())["event"]["customer"] == int(r.key()) for r in stream.committed("decisions"))

    with running(stream.worker("--to", "never.parquet")) as endless:
        assert last_line(endless).endswith("a topic has none: add --stop-at-end")

    stream.produce("events", [*events, (None, b"k")])
    stream.abort("events", 9)
    for name in "out.jsonl", "out.parquet":
        said = stream.run("--to", str(stream.folder / name), state=f"for {name}")
        assert f"{len(past):,} decisions, 1 refused; delivered at least once" in said
    decisions = [json.loads(line) for line in (stream.folder / "out.jsonl").read_bytes().splitlines()]
    assert rows_of(decisions, past).tobytes() == MemoryStore(DOMAIN).replay(past).tobytes()
    assert [decision["event"]["ts"] for decision in decisions] == past.ts_ms.tolist()
    table = pl.read_parquet(stream.folder / "out.parquet")
    assert table["event_id"].cast(pl.Int64).to_list() == [int(decision["event_id"]) for decision in decisions]


def test_a_record_too_large_for_the_brokers_is_a_line(stream: Stream) -> None:
    large = event(1).replace(b"{", b"{" + b" " * 1_000_000)
    (stream.folder / "in.jsonl").write_bytes(b"\n".join([event(0), large, event(2)]))
    into = f"kafka://{stream.address}/{stream.names['decisions']}"
    with running(stream.worker("--from", str(stream.folder / "in.jsonl"), "--to", into)) as worker:
        said = last_line(worker)
    assert worker.returncode == 1
    assert said.startswith(f"error some records did not reach {stream.names['decisions']}: ")
    assert "too large" in said.lower()
    assert stream.decisions()[0]["event_id"] == "e0"


def test_an_event_that_came_in_several_lines_is_one_of_the_file(stream: Stream) -> None:
    stream.produce("events", [(json.dumps(json.loads(event(i)), indent=2).encode(), b"k") for i in range(3)])
    stream.run("--to", str(stream.folder / "out.jsonl"))
    records = [json.loads(line) for line in (stream.folder / "out.jsonl").read_bytes().splitlines()]
    assert [record["event"] for record in records] == [json.loads(event(i)) for i in range(3)]


def test_events_of_transactions_are_read_to_the_end_and_none_waits_then(stream: Stream) -> None:
    stream.commit("events", [(event(i), b"k%d" % (i % 9)) for i in range(300)])
    stream.abort("events", 9)
    port = free_port()
    with running(stream.worker(VIGIL_STREAM_METRICS_PORT=str(port))) as worker:
        stream.reads_on(worker, "decisions", 300)
        while scraped(port).get("lag", 1) > 0:
            assert worker.poll() is None
        worker.terminate()
        assert "300 decisions" in last_line(worker)
    stream.commit("events", [(event(i), b"k%d" % (i % 9)) for i in range(300, 400)])
    stream.abort("events", 9)
    assert "100 decisions" in stream.run()


def test_behind_all_records_nothing_seems_to_wait_whatever_transactions_leave_there(stream: Stream) -> None:
    stream.commit("events", [(event(i), b"k%d" % (i % 9)) for i in range(300)])
    stream.commit("feedback", [(b'{"event_id": "e%d", "label": 1}' % i, b"k%d" % i) for i in range(9)])
    stream.abort("events", 9)
    with running(stream.worker()) as worker:
        while (left := behind(stream)) != 0:
            assert worker.poll() is None, f"{left} left"
        stream.commit("events", [(event(i), b"k%d" % (i % 9)) for i in range(300, 400)])
        while (left := behind(stream)) != 0:
            assert worker.poll() is None, f"{left} left"
        worker.kill()
    assert len(stream.decisions()) == 400
    stream.produce("events", [(event(400), b"k0")])
    assert "1 decisions" in stream.run()


def test_a_worker_says_how_it_does(stream: Stream) -> None:
    stream.produce("events", [(event(i), b"k%d" % i) for i in range(2000)] + [(b"{", b"k")])
    stream.produce("feedback", [(b'{"event_id": "e1", "label": 1}', b"e1")])
    port = free_port()
    with running(stream.worker(VIGIL_STREAM_METRICS_PORT=str(port))) as worker:
        stream.reads_on(worker, "decisions", 2000)
        stream.reads_on(worker, "dead", 1)
        found = scraped(port)
        while found["vigil_stream_batch_rows_sum"] < 2001 or found.get("label", 0) < 1 or found.get("lag", 1) > 0:
            assert worker.poll() is None
            found = scraped(port)
    assert found["decision"] == 2000
    assert found["dead letter"] == found["label"] == 1
    assert found["vigil_stream_aborts_total"] == 0
    transactions = found["vigil_stream_batch_rows_count"]
    assert found["vigil_stream_commit_seconds_count"] == transactions >= 1
    assert 0 < found["vigil_stream_commit_seconds_sum"] < found["vigil_stream_seconds_sum"]


def behind(stream: Stream) -> int:
    """How far the group is behind the ends of what it reads, as whoever scales workers sees it."""
    group = Consumer({"bootstrap.servers": stream.broker.address, "group.id": stream.names["events"]})
    left = 0
    for role in "events", "feedback":
        places = [Place(stream.names[role], partition) for partition in range(3)]
        known = sum(max(place.offset, 0) for place in group.committed(places, timeout=60))
        left += stream.ends(role, committed=False) - known
    group.close()
    return left


def scraped(port: int) -> dict[str, float]:
    """The stream's samples; of records by their outcome, of lag the sum over partitions."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples if "vigil_stream" in sample.name]
    found = {
        sample.labels.get("outcome", sample.name): sample.value
        for sample in samples
        if "le" not in sample.labels and not sample.name.endswith("_created")
    }
    lags = [sample.value for sample in samples if sample.name == "vigil_stream_lag"]
    return found | {"lag": sum(lags)} if len(lags) == 3 else found
