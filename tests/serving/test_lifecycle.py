"""How a service starts without a model, refuses to start, and ends with requests in flight."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import model_store
from testbed import tiny_model
from testbed.served import LOCALHOST, ROOT, NotServed, Served, free_port
from tests.serving.calls import call, payment, tensor
from vigil import domains
from vigil.features.open import open_state
from vigil.settings import Settings
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc

PAYMENTS = domains.load("payments")
SCORE = "/v1/payments/score"


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_DOMAINS": "payments",
        **more,
    }


@pytest.fixture(scope="module")
def without_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("empty")
    with Served(".", folder / "log", environment(folder), wanted=(503,)) as service:
        yield service


def test_without_a_model_readiness_says_which_commands_make_one(without_model: Served) -> None:
    for path in ("/readyz", "/v2/health/ready", "/v2/models/payments/ready"):
        answer = call(without_model.port, "GET", path)
        assert answer.status == 503
        assert "vigil train" in answer.error
        assert "vigil optimize" in answer.error
    assert call(without_model.port, "GET", "/livez").status == 200
    assert "`vigil optimize --domain payments` make one" in without_model.log.read_text()


def test_without_a_model_the_rules_tier_answers(without_model: Served) -> None:
    events = [payment("low", amount=20.0), payment("high", amount=400.0), payment("over", amount=5000.0)]
    decisions = call(without_model.port, "POST", SCORE, events).json
    assert [decision["action"] for decision in decisions] == ["approve", "review", "block"]
    assert [decision["reasons"] for decision in decisions] == [[], ["over_threshold"], ["over_limit"]]
    assert {(decision["tier"], decision["degraded"], decision["model"]) for decision in decisions} == {
        ("rules", True, "")
    }


def test_without_a_model_rows_cannot_be_scored(without_model: Served) -> None:
    row = [1.0] * len(PAYMENTS.features)
    assert call(without_model.port, "POST", "/v2/models/payments/infer", tensor([row])).status == 503
    predict = call(without_model.port, "POST", "/predict", {"features": [row]}, {"Content-Type": "application/json"})
    assert predict.status == 503


def test_without_a_model_grpc_health_serves_events_only(without_model: Served) -> None:
    with grpc.insecure_channel(without_model.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        statuses = [
            health.Check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", "vigil.v1.Decisions")
        ]
    assert statuses == [health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING]


def test_a_changed_model_is_refused_with_both_digests_and_requests_in_flight_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bento"))
    tiny_model.store(tmp_path, PAYMENTS)
    stored = model_store.resolve("payments")
    stored.onnx_path.write_bytes(stored.onnx_path.read_bytes() + b"\0")
    with Served(".", tmp_path / "log", environment(tmp_path), wanted=(503,)) as service:
        reason = call(service.port, "GET", "/readyz").error
        assert stored.manifest.digest in reason
        assert model_store.sha256(stored.onnx_path) in reason
        assert call(service.port, "POST", SCORE, payment("still answered")).json["tier"] == "rules"

        body = b'{"event_id":"in flight","ts":1538308800000,"customer":"C","terminal":"T","amount":5}'
        head = (
            f"POST {SCORE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        )
        with socket.create_connection((LOCALHOST, service.port), timeout=60) as connection:
            connection.sendall(head.encode())
            # The service asks for the body: from here on the request is in flight.
            assert connection.recv(1024).startswith(b"HTTP/1.1 100")
            service.process.terminate()
            while port_is_open(service.port):
                pass
            connection.sendall(body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"event_id":"in flight"' in answer
        assert service.stop() == 0
        assert (tmp_path / "state" / "features" / "payments" / "snapshot").exists()


@pytest.mark.parametrize("grpc_server", ["native", "grpcio"])
def test_an_open_stream_does_not_hold_a_stopping_service(tmp_path: Path, grpc_server: str) -> None:
    more: queue.Queue[pb.ScoreRequest | None] = queue.Queue()
    given = environment(tmp_path, VIGIL_DRAIN_S="3600", VIGIL_GRPC_SERVER=grpc_server)
    entities = {"customer": "C", "terminal": "T"}
    event = pb.Event(event_id="last", ts_ms=1_538_308_800_000, entities=entities, numbers={"amount": 5.0})
    with (
        Served(".", tmp_path / "log", given, wanted=(503,)) as service,
        grpc.insecure_channel(service.grpc_address) as channel,
    ):
        answers = decisions_pb2_grpc.DecisionsStub(channel).ScoreStream(iter(more.get, None))
        more.put(pb.ScoreRequest(domain="payments", events=[event]))
        assert next(answers).decisions[0].event_id == "last"
        assert service.stop() == 0
        with pytest.raises(grpc.RpcError, match="the server stops") as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        more.put(None)


def port_is_open(port: int) -> bool:
    try:
        with socket.create_connection((LOCALHOST, port), timeout=5) as connection:
            # Where the listening socket lives on without an accepting process, nothing answers.
            connection.settimeout(0.2)
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return connection.recv(16) != b""
    except OSError:
        return False


def refused(*arguments: str, **more: str) -> str:
    """What `bentoml serve` prints when it does not start."""
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", LOCALHOST, *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    return ran.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOCALHOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port} on {LOCALHOST}: Address already in use" in refused("--port", port)
        message = refused("--port", "0", VIGIL_GRPC_PORT=port)
        assert f"port {port} on {LOCALHOST}: Address already in use; choose another by VIGIL_GRPC_PORT" in message


def test_a_wrong_setting_stops_the_start() -> None:
    assert "VIGIL_MAX_QUEUE='many'" in refused(VIGIL_MAX_QUEUE="many")
    assert "VIGIL_COLOUR='red': no such setting" in refused(VIGIL_COLOUR="red")
    assert "vigil[otel]" in refused(OTEL_TRACES_EXPORTER="zipkin")
    assert "VIGIL_GRPC_SERVER='twisted': Input should be 'auto', 'native' or 'grpcio'" in refused(
        VIGIL_GRPC_SERVER="twisted"
    )


def test_several_workers_with_memory_are_refused_with_the_reason() -> None:
    assert "memory belongs to one process" in refused(VIGIL_WORKERS="2")


def test_state_in_use_by_another_process_is_said_in_one_line(tmp_path: Path) -> None:
    held = open_state(PAYMENTS, Settings(state_dir=tmp_path / "state"))
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", LOCALHOST, "--port", str(free_port())]
    given = {**os.environ, **environment(tmp_path), "VIGIL_GRPC_PORT": "0"}
    with subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as service:
        assert service.stdout is not None
        lines = []
        while not lines or b"cannot start: " not in lines[-1]:
            lines.append(service.stdout.readline())
            assert lines[-1], lines
        service.terminate()
        service.stdout.read()
    held.close()
    assert b"is in use by another process" in lines[-1]
    assert b"Traceback" not in b"".join(lines)


def test_a_service_that_does_not_come_up_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(NotServed, match="VIGIL_MAX_QUEUE='0'"), Served(".", tmp_path / "log", {"VIGIL_MAX_QUEUE": "0"}):
        pass
