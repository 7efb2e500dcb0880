"""`/v1` of a running service: events to decisions and labels back."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.served import Served
from tests.serving.calls import call, payment
from tests.serving.conftest import MAX_BODY_BYTES

SCORE, FEEDBACK = "/v1/payments/score", "/v1/payments/feedback"


def test_one_event_gets_one_decision_with_all_its_fields(each_served: Served) -> None:
    decision = call(each_served.port, "POST", SCORE, payment("one")).json
    assert set(decision) == {"event_id", "risk", "action", "reasons", "model", "tier", "degraded"}
    assert (decision["event_id"], decision["tier"], decision["degraded"]) == ("one", "full", False)
    assert decision["model"].startswith("payments:")
    assert 0 <= decision["risk"] <= 1
    assert decision["action"] in ("approve", "review", "block")


def test_an_array_gets_an_array_in_the_same_order(each_served: Served) -> None:
    events = [payment(f"many-{i}", customer=f"C{i % 7}", amount=1.0 + i) for i in range(500)]
    decisions = call(each_served.port, "POST", SCORE, events).json
    assert [decision["event_id"] for decision in decisions] == [event["event_id"] for event in events]


def test_an_array_of_one_gets_an_array(each_served: Served) -> None:
    assert len(call(each_served.port, "POST", SCORE, [payment("array of one")]).json) == 1


def test_event_ids_come_back_as_they_came(each_served: Served) -> None:
    assert call(each_served.port, "POST", SCORE, payment(17)).json["event_id"] == 17


def test_an_event_seen_again_gets_the_same_decision_and_counts_once(each_served: Served) -> None:
    event = payment("again", customer="repeater")
    first = call(each_served.port, "POST", SCORE + "?features=true", event).json
    assert call(each_served.port, "POST", SCORE + "?features=true", event).json == first
    after = call(each_served.port, "POST", SCORE + "?features=true", payment("after", customer="repeater")).json
    assert after["features"]["customer_count_1d"] == 2


def test_a_label_finds_its_event_once(each_served: Served) -> None:
    call(each_served.port, "POST", SCORE, payment("to be labelled"))
    label = {"event_id": "to be labelled", "label": 1}
    assert call(each_served.port, "POST", FEEDBACK, label).json == {"event_id": "to be labelled", "status": "labelled"}
    assert call(each_served.port, "POST", FEEDBACK, [label]).json[0]["status"] == "label_known"
    early = {"event_id": "never came", "label": 0}
    assert call(each_served.port, "POST", FEEDBACK, early).json["status"] == "label_waits"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"{", "body: "),
        (b"", "body: "),
        (b"\xff\xfe", "body: "),
        (b"[]", "events: got an empty array"),
        (b'"text"', "event: got 'text'"),
        (payment("x", amount=-5), "amount: got -5"),
        (payment("x", amount="5"), "amount: got '5'"),
        (b'{"event_id":"x","ts":1,"customer":"C","terminal":"T","amount":NaN}', "body: "),
        (payment("x", ts="yesterday"), "ts: got 'yesterday'"),
        (payment("x", ts="2018-09-30T12:00:00"), "ts: got '2018-09-30T12:00:00'"),
        (payment("x", ts=4_000_000_000_000), "ts: got 4000000000000"),
        (payment("x", colour="red"), "colour: got 'red'"),
        ({k: v for k, v in payment("x").items() if k != "terminal"}, "terminal: "),
        ([payment("x"), payment("y", amount=0)], "[1].amount: got 0"),
    ],
)
def test_an_event_that_cannot_be_is_refused_by_field_got_and_wanted(
    each_served: Served, body: Any, wanted: str
) -> None:
    answer = call(each_served.port, "POST", SCORE, body)
    assert answer.status == 400
    assert answer.error.startswith(wanted)
    assert "want" in answer.error


def test_a_bad_event_keeps_the_rest_of_its_array_from_counting(each_served: Served) -> None:
    events = [payment("all or none 1", customer="careful"), payment("all or none 2", customer="careful", amount=-1)]
    assert call(each_served.port, "POST", SCORE, events).status == 400
    alone = call(each_served.port, "POST", SCORE + "?features=true", payment("all or none 3", customer="careful")).json
    assert alone["features"]["customer_count_1d"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "wanted"),
    [
        ("POST", "/v1/parcels/score", 404, "no domain 'parcels'; there are payments"),
        (
            "POST",
            "/v1/payments/sore",
            404,
            "no route /v1/payments/sore; there are GET /v1/decisions/{event_id}, POST /v1/{domain}/score",
        ),
        ("GET", SCORE, 405, "method: got GET, wanted POST"),
        ("POST", SCORE + "?features=maybe", 400, "query parameter features: got 'maybe', wanted true or false"),
        ("POST", SCORE + "?colour=red", 400, "query parameter 'colour': no such parameter; there is features"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    each_served: Served, method: str, path: str, status: int, wanted: str
) -> None:
    answer = call(each_served.port, method, path, payment("y"))
    assert (answer.status, answer.error[: len(wanted)]) == (status, wanted)


def test_a_request_in_time_is_answered_and_one_too_late_is_refused_and_has_not_counted(each_served: Served) -> None:
    event = payment("hurried", customer="hurried")
    late = call(each_served.port, "POST", SCORE, event, {"X-Request-Timeout-Ms": "0"})
    assert (late.status, late.error.split()[:2]) == (504, ["deadline", "passed"])
    later = payment("hurried 2", customer="hurried")
    answer = call(each_served.port, "POST", SCORE + "?features=true", later, {"X-Request-Timeout-Ms": "60000"})
    assert answer.status == 200
    assert answer.json["features"]["customer_count_1d"] == 1


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "100000000", "\u00b2"])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(each_served: Served, value: str) -> None:
    answer = call(each_served.port, "POST", SCORE, payment("y"), {"X-Request-Timeout-Ms": value})
    assert answer.status == 400
    assert answer.error.startswith("x-request-timeout-ms: got ")
    assert answer.error.endswith("wanted milliseconds, 0 to 99999999")


def test_a_bad_label_is_refused(each_served: Served) -> None:
    answer = call(each_served.port, "POST", FEEDBACK, {"event_id": "x", "label": 2})
    assert (answer.status, answer.error) == (400, "label: got 2, wanted 0 or 1")


@pytest.mark.parametrize("path", [SCORE, "/v2/models/payments/infer", "/predict"])
def test_a_body_over_the_limit_is_refused_on_every_route(each_served: Served, path: str) -> None:
    answer = call(each_served.port, "POST", path, b"x" * (MAX_BODY_BYTES + 1))
    assert (answer.status, answer.error) == (
        413,
        f"body: got {MAX_BODY_BYTES + 1} bytes, wanted at most {MAX_BODY_BYTES}",
    )


def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_large(each_served: Served) -> None:
    chunk = b"%x\r\n%s\r\n" % (1 << 16, b"x" * (1 << 16))
    headers = {"Transfer-Encoding": "chunked"}
    for path in (SCORE, "/predict"):
        answer = call(each_served.port, "POST", path, chunk * 4 + b"0\r\n\r\n", headers)
        assert answer.status == 413
        assert "wanted at most" in answer.error
