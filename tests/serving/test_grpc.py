"""The gRPC port of a running service, by clients no one here wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from loadtest.served import Served
from tests.serving.calls import call, payment
from vigil import domains
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc

WIDTH = len(domains.load("payments").features)
ROWS = np.random.default_rng(6).normal(0, 30, (17, WIDTH)).astype(np.float32)
NOON_MS = 1_538_308_800_000


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(served.grpc_address) as opened:
        yield opened


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc_address) as opened:
        yield opened


def tensor(rows: np.ndarray, name: str = "features", datatype: str = "FP32") -> Any:
    return triton.InferInput(name, list(rows.shape), datatype).set_data_from_numpy(rows)


def event(event_id: str, amount: float = 31.5, customer: str = "C1") -> pb.Event:
    entities = {"customer": customer, "terminal": "T1"}
    return pb.Event(event_id=event_id, ts_ms=NOON_MS, entities=entities, numbers={"amount": amount})


def test_tritonclient_sees_a_live_ready_server_and_its_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("payments")
    assert client.get_server_metadata().name == "vigil"
    metadata = client.get_model_metadata("payments")
    assert (metadata.inputs[0].name, list(metadata.inputs[0].shape)) == ("features", [-1, WIDTH])
    assert metadata.outputs[0].name == "risk"


def test_grpc_and_http_give_the_same_risks(served: Served, client: Any) -> None:
    risks = client.infer("payments", [tensor(ROWS)], request_id="seven")
    assert risks.get_response().id == "seven"
    with tritonclient.http.InferenceServerClient(served.address) as other:
        same = tritonclient.http.InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
        assert (other.infer("payments", [same]).as_numpy("risk") == risks.as_numpy("risk")).all()


def test_typed_contents_give_the_same_as_raw_ones(client: Any, channel: grpc.Channel) -> None:
    request = service_pb2.ModelInferRequest(model_name="payments")
    part = request.inputs.add(name="features", datatype="FP32", shape=ROWS.shape)
    part.contents.fp32_contents.extend(ROWS.ravel().tolist())
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    raw = client.infer("payments", [tensor(ROWS)]).as_numpy("risk")
    assert answer.raw_output_contents[0] == raw.tobytes()


@pytest.mark.parametrize(
    ("model", "version", "rows", "name", "wanted"),
    [
        ("nope", "", ROWS, "features", "NOT_FOUND.*no model 'nope'; there are payments"),
        ("payments", "9", ROWS, "features", "NOT_FOUND.*no version '9' of model 'payments'"),
        ("payments", "", ROWS, "x", "INVALID_ARGUMENT.*inputs: got .'x'., wanted one tensor named 'features'"),
        ("payments", "", ROWS[:, :3], "features", "INVALID_ARGUMENT.*shape: got .17, 3., wanted"),
        ("payments", "", ROWS * np.float32("nan"), "features", "INVALID_ARGUMENT.*got nan, wanted a finite float32"),
    ],
)
def test_a_call_that_cannot_be_gets_a_status_and_a_message(
    client: Any, model: str, version: str, rows: np.ndarray, name: str, wanted: str
) -> None:
    with pytest.raises(InferenceServerException, match=wanted):
        client.infer(model, [tensor(rows, name)], model_version=version)


def test_another_datatype_is_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="datatype: got 'FP64', wanted FP32"):
        client.infer("payments", [tensor(ROWS.astype(np.float64), datatype="FP64")])


def test_a_message_over_the_limit_is_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
        client.infer("payments", [tensor(np.zeros((2000, WIDTH), np.float32))])


def test_events_get_the_same_decisions_as_over_http(served: Served, channel: grpc.Channel) -> None:
    events = [event("grpc-1", 250.0, "C-grpc"), event("grpc-2", 12.0, "C-grpc")]
    stub = decisions_pb2_grpc.DecisionsStub(channel)
    answer = stub.Score(pb.ScoreRequest(domain="payments", events=events, with_features=True))
    plain = [payment(e.event_id, ts=NOON_MS, customer="C-grpc", amount=e.numbers["amount"]) for e in events]
    same = call(served.port, "POST", "/v1/payments/score?features=true", plain).json
    assert [decision.risk for decision in answer.decisions] == [decision["risk"] for decision in same]
    assert [dict(decision.features) for decision in answer.decisions] == [d["features"] for d in same]
    assert [decision.action for decision in answer.decisions] == [decision["action"] for decision in same]


@pytest.mark.parametrize(
    ("request_", "code", "wanted"),
    [
        (
            pb.ScoreRequest(domain="parcels", events=[event("x")]),
            "NOT_FOUND",
            "no domain 'parcels'; there are payments",
        ),
        (pb.ScoreRequest(domain="payments"), "INVALID_ARGUMENT", "events: got none, wanted at least one event"),
        (pb.ScoreRequest(domain="payments", events=[event("x", -1)]), "INVALID_ARGUMENT", "amount: got -1.0, wanted"),
        (
            pb.ScoreRequest(domain="payments", events=[event("x"), event("")]),
            "INVALID_ARGUMENT",
            "[1].event_id: got ''",
        ),
        (pb.ScoreRequest(domain="payments", events=[pb.Event(event_id="x")]), "INVALID_ARGUMENT", "ts: "),
    ],
)
def test_an_event_that_cannot_be_gets_a_status_and_a_message(
    channel: grpc.Channel, request_: Any, code: str, wanted: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        decisions_pb2_grpc.DecisionsStub(channel).Score(request_)
    assert (caught.value.code().name, caught.value.details()[: len(wanted)]) == (code, wanted)


def test_labels_reach_their_events(channel: grpc.Channel) -> None:
    stub = decisions_pb2_grpc.DecisionsStub(channel)
    stub.Score(pb.ScoreRequest(domain="payments", events=[event("grpc-label")]))
    request = pb.FeedbackRequest(domain="payments", labels=[pb.Label(event_id="grpc-label", label=1)])
    assert list(stub.Feedback(request).statuses) == ["labelled"]
    with pytest.raises(grpc.RpcError, match="label: "):
        stub.Feedback(pb.FeedbackRequest(domain="payments", labels=[pb.Label(event_id="x")]))


def test_health_is_told_for_each_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService", "vigil.v1.Decisions"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_shows_services_and_their_messages(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"inference.GRPCInferenceService", "vigil.v1.Decisions"} <= set(database.get_services())
    score = DescriptorPool(database).FindServiceByName("vigil.v1.Decisions").methods_by_name["Score"]
    assert "events" in score.input_type.fields_by_name
