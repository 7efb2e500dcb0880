"""`GET /v1/decisions/{event_id}` of a running service: every decision is on record, whatever was killed since."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import psutil
import pytest

from testbed import tiny_model
from testbed.served import Served
from testbed.valkey import Valkey
from tests.serving.calls import call, payment
from vigil import domains
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc as rpc

DOMAIN = domains.load("payments")
SCORE = "/v1/payments/score?features=true"


def recorded(service: Served, event_id: str, query: str = "") -> Any:
    answer = call(service.port, "GET", f"/v1/decisions/{quote(event_id, safe='')}{query}")
    assert answer.status == 200, answer.body
    return answer.json


@pytest.mark.parametrize("event_id", ["on record", "a/b c%2F?d", "{event_id}", "score", "Zürich", "x" * 128])
def test_a_decision_is_on_record_as_it_was_answered_with_what_it_was_made_on(
    each_served: Served, event_id: str
) -> None:
    before_ms = time.time_ns() // 1_000_000
    event = payment(event_id, customer="recorded")
    answered = call(each_served.port, "POST", SCORE, event).json
    record = recorded(each_served, event_id)
    assert {name: record[name] for name in answered} == answered
    assert record["event"]["event_id"] == event_id
    assert record["event"]["amount"] == event["amount"]
    assert list(record["features"]) == list(DOMAIN.feature_names)
    assert (record["domain"], record["policy"]) == ("payments", DOMAIN.policy.version)
    assert len(record["digest"]) == 64
    assert before_ms <= record["written_ms"] <= time.time_ns() // 1_000_000


def test_events_of_arrays_of_grpc_calls_and_of_streams_are_on_record(
    each_served: Served, channel: grpc.Channel
) -> None:
    call(each_served.port, "POST", SCORE, [payment(900_000 + i) for i in range(20)])
    stub = rpc.DecisionsStub(channel)  # type: ignore[no-untyped-call]
    numbers = {"amount": 3.5}
    entities = {"customer": "C1", "terminal": "T1"}
    events = [
        pb.Event(event_id=f"by grpc {i}", ts_ms=1_538_308_800_000, entities=entities, numbers=numbers) for i in range(2)
    ]
    stub.Score(pb.ScoreRequest(domain="payments", events=events[:1]))
    list(stub.ScoreStream(iter([pb.ScoreRequest(domain="payments", events=events[1:])])))
    for event_id in ("900000", "900019", "by grpc 0", "by grpc 1"):
        assert str(recorded(each_served, event_id)["event_id"]) == event_id
    assert recorded(each_served, "900019")["event_id"] == 900_019


def test_an_event_seen_again_has_its_last_decision_on_record(each_served: Served) -> None:
    call(each_served.port, "POST", SCORE, payment("twice on record"))
    first = again = recorded(each_served, "twice on record")
    until_s = time.monotonic() + 30
    while again["written_ms"] == first["written_ms"] and time.monotonic() < until_s:
        call(each_served.port, "POST", SCORE, payment("twice on record"))
        again = recorded(each_served, "twice on record")
    assert again["written_ms"] > first["written_ms"]
    assert again | {"written_ms": 0} == first | {"written_ms": 0}


@pytest.mark.parametrize(
    ("path", "status", "wanted"),
    [
        ("/v1/decisions/never", 404, "no decision on record for the event 'never'; on each machine records are kept"),
        ("/v1/decisions/never?domain=payments", 404, "no decision on record for the event 'never' of payments; on "),
        ("/v1/decisions/never?domain=parcels", 404, "no domain 'parcels'; there are payments"),
        ("/v1/decisions/never?colour=red", 400, "query parameter 'colour': no such parameter; there is domain"),
        ("/v1/decisions/", 404, "no route /v1/decisions/; there are GET /v1/decisions/{event_id}"),
    ],
)
def test_what_is_not_on_record_is_said(each_served: Served, path: str, status: int, wanted: str) -> None:
    answer = call(each_served.port, "GET", path)
    assert (answer.status, answer.error[: len(wanted)]) == (status, wanted)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    found = {"BENTOML_HOME": str(tmp_path / "bento"), "VIGIL_DOMAINS": "payments", "VIGIL_GRPC_PORT": "0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", found["BENTOML_HOME"])
        tiny_model.store(tmp_path, DOMAIN)
    return found | {"VIGIL_STATE_DIR": str(tmp_path / "state")}


def test_what_was_on_record_before_a_kill_is_after_it(environment: dict[str, str], tmp_path: Path) -> None:
    with Served(".", tmp_path / "log", environment) as service:
        call(service.port, "POST", SCORE, [payment(f"e{i}") for i in range(3000)])
        wanted = recorded(service, "e2999")
        for process in [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(True)]:
            os.kill(process.pid, signal.SIGKILL)
    with Served(".", tmp_path / "log 2", environment) as service:
        assert recorded(service, "e2999") == wanted
        assert recorded(service, "e0")["event_id"] == "e0"


def test_any_worker_answers_for_what_another_has_decided(environment: dict[str, str], tmp_path: Path) -> None:
    with Valkey() as state:
        two = environment | {"VIGIL_STATE_URL": state.url, "VIGIL_WORKERS": "2"}
        with Served(".", tmp_path / "log", two) as service:
            store, count, until_s = tmp_path / "state" / "decisions", 0, time.monotonic() + 60
            while len(list(store.glob("*/*.jsonl"))) < 2 and time.monotonic() < until_s:
                call(service.port, "POST", SCORE, payment(f"e{count}"))
                count += 1
            assert {path.parent.name for path in store.glob("*/*.jsonl")} == {"0", "1"}
            assert all(recorded(service, f"e{i}")["event_id"] == f"e{i}" for i in range(0, count, count // 20 + 1))


def test_without_records_the_answer_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    with Served(".", tmp_path / "log", environment | {"VIGIL_RECORDS": "false"}) as service:
        call(service.port, "POST", SCORE, payment("unrecorded"))
        answer = call(service.port, "GET", "/v1/decisions/unrecorded")
        assert (answer.status, answer.error) == (404, "no decision is recorded: VIGIL_RECORDS is off")
    assert not (tmp_path / "state" / "decisions").exists()
