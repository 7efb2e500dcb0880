"""What a real service tells a collector, its log and Prometheus; all of it is there once it has ended."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, NamedTuple

import pytest

from testbed import tiny_model
from testbed.served import LOCALHOST, Served
from tests.serving.calls import call, payment, tensor
from tests.serving.collector import Collector, parent
from vigil import domains

INFER = "/v2/models/payments/infer"
SCORE = "/v1/payments/score"
PAYMENTS = domains.load("payments")


class Told(NamedTuple):
    """What was there after the end: spans, and the lines of the log."""

    collector: Collector
    lines: list[dict[str, Any]]

    def access(self, **wanted: Any) -> list[dict[str, Any]]:
        """Lines of the access log with these fields."""
        found = [line for line in self.lines if line["logger"] == "vigil.access"]
        return [line for line in found if wanted.items() <= line.items()]


@pytest.fixture(scope="module", params=["protocol", "asgi"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("telemetry")
    with Collector() as collector, pytest.MonkeyPatch.context() as patch:
        environment = {
            "BENTOML_HOME": str(folder / "bento"),
            "VIGIL_STATE_DIR": str(folder / "state"),
            "VIGIL_DOMAINS": "payments",
            "VIGIL_HTTP_LANE": request.param,
            "VIGIL_LOG_FORMAT": "json",
            "VIGIL_ACCESS_LOG": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_SERVICE_NAME": "tried",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
        patch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
        tiny_model.store(folder, PAYMENTS)
        with Served(".", folder / "log", environment) as service:
            body = tensor([[0.25] * len(PAYMENTS.features)])
            ids = {"x-request-id": "order-7"}
            assert call(service.port, "POST", INFER, body, parent(1) | ids).status == 200
            assert call(service.port, "POST", INFER, body, parent(2, "00")).status == 200
            assert call(service.port, "POST", INFER, body).status == 200
            secret = payment("secret-event", customer="secret-customer", amount=987654.25)
            assert call(service.port, "POST", SCORE, secret, {"x-request-id": 'forged" status=200'}).status == 200
            assert call(service.port, "POST", SCORE, b"{", parent(3)).status == 400
            call(service.port, "POST", "/v2/repository/models/payments/unload")
            assert call(service.port, "POST", INFER, body, parent(4)).status == 503
        lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return Told(collector, lines)


def test_spans_that_were_not_yet_sent_are_sent_at_the_end(told: Told) -> None:
    spans = told.collector.named(f"{1:032x}")
    assert set(spans) == {"POST /v2/models/{model}/infer", "queue", "batch", "join", "model"}
    assert {span.service for span in spans.values()} == {"tried"}
    assert {span.trace_id for span in told.collector.spans} == {f"{i:032x}" for i in (1, 3, 4)}


def test_each_call_has_a_line_that_leads_to_its_trace(told: Told) -> None:
    (line,) = told.access(trace_id=f"{1:032x}")
    span = told.collector.named(f"{1:032x}")["POST /v2/models/{model}/infer"]
    assert line["span_id"] == span.span_id
    assert line["request_id"] == "order-7"
    assert (line["transport"], line["method"], line["status"]) == ("http", "POST", "200")
    assert line["route"] == "/v2/models/{model}/infer"
    assert line["client"] == LOCALHOST
    assert 0 < line["duration_ms"] < 10_000
    assert line["bytes_in"] > 50
    assert line["bytes_out"] > 50
    assert [line["status"] for line in told.access(trace_id=f"{3:032x}")] == ["400"]
    assert [line["status"] for line in told.access(trace_id=f"{4:032x}")] == ["503"]


def test_a_call_that_is_not_sampled_still_names_its_trace(told: Told) -> None:
    (line,) = told.access(trace_id=f"{2:032x}")
    assert "span_id" not in line


def test_the_log_is_json_throughout_and_holds_nothing_of_events(told: Told) -> None:
    assert {line["logger"].split(".")[0] for line in told.lines} >= {"vigil", "bentoml"}
    assert not re.search("secret|987654|forged", json.dumps(told.lines))
    assert all({"time", "level", "message", "pid"} <= set(line) for line in told.lines)


def test_requests_in_flight_are_shown_while_they_are(served: Served) -> None:
    def in_flight() -> float:
        text = call(served.port, "GET", "/metrics").body.decode()
        return float(re.findall(r'^vigil_requests_in_flight\{transport="http"\} (.*)$', text, re.MULTILINE)[0])

    before = in_flight()
    with socket.create_connection((LOCALHOST, served.port), timeout=30) as half:
        half.sendall(
            f"POST {SCORE} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n".encode()
        )
        assert half.recv(100).startswith(b"HTTP/1.1 100")  # by now the service waits for the body
        during = in_flight()
        half.sendall(b"[" * 9)
        assert b" 400 " in half.recv(100)
    assert (before, during, in_flight()) == (0, 1, 0)
