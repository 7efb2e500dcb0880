"""Laws of the Kafka worker, with a real broker and real kills."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request

import pytest
from confluent_kafka import Consumer, TopicPartition
from kafka import KafkaProducer

from testbed.served import free_port
from tests.stream.conftest import DOMAIN, Stream, event, events_of, history, labels_of, last_line, rows_of, running
from vigil.features.memory.store import MemoryStore
from vigil.stream.kafka.dead_letters import MOST_BYTES
from vigil.stream.kafka.metadata import committed


def test_every_event_of_a_history_has_one_decision_with_the_features_of_the_offline_computation(
    stream: Stream,
) -> None:
    past = history(150, 40, customers=300, terminals=60)
    stream.produce("feedback", labels_of(past))
    stream.run()
    stream.produce("events", events_of(past))
    said = stream.run()
    assert f"{len(past):,} decisions; delivered exactly once" in said
    decisions = stream.decisions()
    assert sorted(int(decision["event_id"]) for decision in decisions) == past.event_ids.tolist()
    assert rows_of(decisions, past).tobytes() == MemoryStore(DOMAIN).replay(past).tobytes()


def test_keys_and_traces_pass_on_and_what_the_policy_stops_is_an_alert(stream: Stream) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    events = [(event(i), b"key-%d" % i) for i in range(50)]
    stream.produce("events", events, headers=[("traceparent", trace), ("other", "x")])
    stream.run()
    decisions = stream.committed("decisions")
    for record in decisions:
        value = json.loads(record.value())
        assert record.key() == b"key-" + value["event_id"][1:].encode()
        headers = [("vigil-decision", DOMAIN.policy.version.encode()), ("traceparent", trace.encode())]
        assert record.headers() == headers
    stopped = {r.value() for r in decisions if json.loads(r.value())["action"] == "block"}
    assert {record.value() for record in stream.committed("alerts")} == stopped
    assert len(decisions) == 50


POISON = {
    "wrong JSON": (b"{nonsense", b"body: "),
    "wrong field": (event(99, colour="red"), b"wanted one of the fields"),
    "wrong value": (event(99, amount=-1), b"amount: got -1"),
    "missing": (b'{"event_id": "bad", "amount": "much"}', b"ts: got nothing, wanted an RFC 3339 time"),
    "null": (None, b""),
    "empty": (b"", b""),
    "future": (event(99, ts=1 << 43), b"ts: got 8796093022208 (2248-09-26T15:10:22Z), wanted epoch milliseconds up to"),
    "deep": (b"[" * 100_000, b""),
    "huge": (b'"' + b"x" * 890_000 + b'"', b""),
    "larger than its decision can be": (event(99)[:-1] + b" " * 950_000 + b"}", b"wanted 900,000 at most"),
}


def test_poison_in_any_place_of_a_batch_becomes_dead_letters_and_the_others_are_decided(stream: Stream) -> None:
    sent, poison = 0, list[tuple[bytes | None, bytes]]()
    with running(stream.worker()) as worker:
        for bad, why in POISON.values():
            for good, place in (4, 0), (4, 2), (4, 4), (0, 0):
                records: list[tuple[bytes | None, bytes]] = [(event(sent + i), b"k") for i in range(good)]
                records[place:place] = [(bad, b"k")] * (2 if good else 3)
                stream.produce("events", records)
                sent += good
                poison += [(bad, why)] * (2 if good else 3)
        stream.reads_on(worker, "dead", len(poison))
        stream.reads_on(worker, "decisions", sent)
        worker.terminate()
        assert f"{sent} decisions" in last_line(worker)
    assert [decision["event_id"] for decision in stream.decisions()] == [f"e{i}" for i in range(sent)]
    letters = sorted(stream.committed("dead"), key=lambda letter: int(dict(letter.headers())["vigil-offset"]))
    assert [letter.value() for letter in letters] == [bad and bad[:MOST_BYTES] for bad, _ in poison]
    for letter, (_, why) in zip(letters, poison, strict=True):
        headers = dict(letter.headers())
        assert letter.key() == b"k"
        assert why in headers["vigil-reason"]
        assert headers["vigil-topic"] == stream.names["events"].encode()
    assert len({dict(letter.headers())["vigil-offset"] for letter in letters}) == len(letters)


AROUND = {
    "a key": (event(0), b"k" * 999_700, None),
    "a header that passes on": (event(0), b"k", [("traceparent", b"x" * 999_700)]),
    "headers of no event": (b"{", b"k", [("x", b"x" * 100), ("y", b"y" * 999_500)]),
    "a value, with headers": (b"x" * 901_000, b"k", [("x", b"x" * 98_000)]),
}


@pytest.mark.parametrize("role", ["events", "feedback"])
def test_what_is_too_large_with_key_and_headers_is_a_dead_letter_and_the_others_go_through(
    stream: Stream, role: str
) -> None:
    for value, key, headers in AROUND.values():
        stream.produce(role, [(value, key)], headers)
    stream.produce("events", [(event(1), b"k")])
    stream.run()
    assert [decision["event_id"] for decision in stream.decisions()] == ["e1"]
    letters = stream.committed("dead")
    assert sorted(len(letter.value()) for letter in letters) == sorted(
        min(len(value), MOST_BYTES) for value, *_ in AROUND.values()
    )
    assert any(("x", b"x" * 100) in letter.headers() for letter in letters)
    assert all(dict(letter.headers())["vigil-topic"] == stream.names[role].encode() for letter in letters)


def test_more_poison_than_a_client_holds_goes_through(stream: Stream) -> None:
    (stream.folder / "client.properties").write_text("queue.buffering.max.kbytes=20000\n")
    count = 100
    stream.produce("events", [(b"x" * 890_000, b"%d" % i) for i in range(count)])
    stream.produce("events", [(event(1), b"k")])
    stream.run(VIGIL_KAFKA_PROPERTIES=str(stream.folder / "client.properties"))
    assert len(stream.decisions()) == 1
    assert len({record.key() for record in stream.committed("dead")}) == len(stream.committed("dead")) == count


class NoText(str):
    """A header's name as another client may send it."""

    def encode(self, *_: str) -> bytes:
        return b"\xff\xfe"


def test_headers_whose_names_are_no_text_stop_nothing(stream: Stream) -> None:
    sender = KafkaProducer(bootstrap_servers=stream.broker.address)
    for value in event(1), b"{":
        sender.send(stream.names["events"], value, b"k", headers=[("traceparent", b"t"), (NoText(), b"v")]).get(60)
    sender.close()
    stream.run()
    assert [decision["event_id"] for decision in stream.decisions()] == ["e1"]
    (letter,) = stream.committed("dead")
    assert letter.value() == b"{"
    assert dict(letter.headers())["vigil-topic"] == stream.names["events"].encode()


def test_an_id_that_comes_again_with_another_content_is_a_dead_letter(stream: Stream) -> None:
    stream.produce("events", [(event(1), b"k"), (event(1, amount=90_000.0), b"k"), (event(1), b"k"), (event(2), b"k")])
    stream.run()
    assert [decision["event_id"] for decision in stream.decisions()] == ["e1", "e1", "e2"]
    (letter,) = stream.committed("dead")
    assert b"another content: amount" in dict(letter.headers())["vigil-reason"]


def test_dead_letters_go_back_where_they_came_from_once(stream: Stream) -> None:
    ahead = event(7, ts=time.time_ns() // 1_000_000 + 3_600_000)
    stream.produce("events", [(event(1), b"k"), (ahead, b"k"), (None, b"k")])
    stream.run(VIGIL_MAX_FUTURE_S="60")
    assert len(stream.committed("dead")) == 2
    said = stream.run("--replay-dead-letters")
    assert "2 dead letters put back where they came from" in said
    assert "0 dead letters" in stream.run("--replay-dead-letters")
    stream.run()  # the fix: this worker takes events from so far ahead
    assert sorted(decision["event_id"] for decision in stream.decisions()) == ["e1", "e7"]
    assert len(stream.committed("dead")) == 3


def test_state_that_was_lost_is_made_again_from_the_topic_and_nothing_comes_out_twice(stream: Stream) -> None:
    past = history(150, 10, customers=300, terminals=60)
    events = events_of(past)
    stream.produce("events", events[:-500])
    stream.run()
    stream.produce("events", events[-500:])
    assert "500 decisions" in stream.run(state="another")
    decisions = stream.decisions()
    assert len(decisions) == len(events)
    past.labels[:] = -1
    assert rows_of(decisions, past).tobytes() == MemoryStore(DOMAIN).replay(past).tobytes()


def commit(stream: Stream, offset: int) -> None:
    """Says of all events that the group has read them up to an offset."""
    group = Consumer({"bootstrap.servers": stream.broker.address, "group.id": stream.names["events"]})
    places = [TopicPartition(stream.names["events"], partition, offset) for partition in range(3)]
    committed(group, places)  # once its coordinator answers
    group.commit(offsets=places, asynchronous=False)
    group.close()


def test_offsets_behind_the_end_are_refused_as_new_events_up_to_them_would_bring_nothing_out(stream: Stream) -> None:
    stream.produce("events", [(event(i), b"k%d" % i) for i in range(30)])
    commit(stream, 1000)
    worker = stream.worker("--stop-at-end")
    assert "the group has read up to 1000" in " ".join(last_line(worker).split())
    assert worker.returncode == 1


def test_events_that_are_gone_before_they_were_read_are_named(stream: Stream) -> None:
    stream.produce("events", [(event(i), b"k") for i in range(15)])
    commit(stream, 0)
    lost = [TopicPartition(at.topic(), at.partition(), 10) for at in stream.committed("events")[:1]]
    for done in stream.admin.delete_records(lost).values():
        done.result(60)
    assert f"{lost[0].topic}/{lost[0].partition}: offsets 0 to 9 are gone unread" in stream.run()
    assert [decision["event_id"] for decision in stream.decisions()] == [f"e{i}" for i in range(10, 15)]


def test_a_second_worker_with_a_memory_of_its_own_is_refused_and_the_first_goes_on(stream: Stream) -> None:
    stream.produce("events", [(event(0), b"k")])
    with running(stream.worker()) as first:
        stream.reads_on(first, "decisions", 1)
        second = stream.worker(state="another")
        assert "state in memory belongs to one worker" in " ".join(last_line(second).split())
        assert second.returncode == 1
        stream.produce("events", [(event(1), b"k")])
        stream.reads_on(first, "decisions", 2)


def test_a_worker_whose_place_was_taken_ends_with_a_line_though_nothing_comes(stream: Stream) -> None:
    stream.produce("events", [(event(0), b"k")])
    with running(stream.worker(VIGIL_STREAM_MEMBER="one")) as first:
        stream.reads_on(first, "decisions", 1)
        stream.run(state="another", VIGIL_STREAM_MEMBER="one")
        line = last_line(first, within_s=30)
        assert first.returncode == 1
        assert "and ends" in line.splitlines()[-1]


def test_properties_and_topics_that_cannot_be_are_one_line(stream: Stream) -> None:
    (stream.folder / "client.properties").write_text("isolation.level=read_uncommitted\n")
    process = stream.worker(VIGIL_KAFKA_PROPERTIES=str(stream.folder / "client.properties"))
    assert "line 1: isolation.level is not to be set" in last_line(process)
    stream.names["alerts"] = "none-such"
    assert "there is no topic 'none-such'" in last_line(stream.worker("--stop-at-end"))
    stream.names["dead"] = stream.names["events"]
    assert "would be read and written" in last_line(stream.worker())
    stream.names["alerts"], stream.names["dead"] = "none such", "dead"
    assert "topic 'none such' at " in last_line(stream.worker())


def until_it_waits(worker: subprocess.Popen[str]) -> str:
    """What a worker says when it begins to wait for topics."""
    assert worker.stderr
    while "waits for topics" not in (line := worker.stderr.readline()):
        assert line, "the worker ended"
    return line


def test_a_worker_waits_for_topics_and_goes_on_once_all_are_there(stream: Stream) -> None:
    later, port = ("events", "decisions"), free_port()
    stream.names |= {role: f"later-{stream.names[role]}" for role in later}
    with running(stream.worker(VIGIL_STREAM_METRICS_PORT=str(port))) as worker:
        line = " ".join(until_it_waits(worker).split())
        assert all(repr(stream.names[role]) in line for role in later)
        assert stream.address in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"\nvigil_ready 0.0\n" in answer.read()
        stream.broker.create([stream.names["events"]])
        assert repr(stream.names["events"]) not in until_it_waits(worker)
        stream.produce("events", [(event(i), b"k") for i in range(5)])
        stream.broker.create([stream.names["decisions"]])
        stream.reads_on(worker, "decisions", 5)


def test_a_worker_that_waits_for_topics_ends_well_when_it_is_asked_to(stream: Stream) -> None:
    stream.names["feedback"] = "none-such"
    with running(stream.worker()) as worker:
        until_it_waits(worker)
        worker.terminate()
        assert "0 decisions" in last_line(worker)
    assert worker.returncode == 0
