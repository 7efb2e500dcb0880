"""The gRPC port of a running service, by clients no one here wrote."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import aio, model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from testbed.served import Served
from tests.serving.calls import call, payment
from vigil import domains
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc

WIDTH = len(domains.load("payments").features)
ROWS = np.random.default_rng(6).normal(0, 30, (17, WIDTH)).astype(np.float32)
NOON_MS = 1_538_308_800_000


def tensor(rows: np.ndarray, name: str = "features", datatype: str = "FP32") -> Any:
    return triton.InferInput(name, list(rows.shape), datatype).set_data_from_numpy(rows)


def event(event_id: str, amount: float = 31.5, customer: str = "C1") -> pb.Event:
    entities = {"customer": customer, "terminal": "T1"}
    return pb.Event(event_id=event_id, ts_ms=NOON_MS, entities=entities, numbers={"amount": amount})


def test_tritonclient_sees_a_live_ready_server_and_its_model(grpc_client: Any) -> None:
    assert grpc_client.is_server_live()
    assert grpc_client.is_server_ready()
    assert grpc_client.is_model_ready("payments")
    assert grpc_client.get_server_metadata().name == "vigil"
    metadata = grpc_client.get_model_metadata("payments")
    assert (metadata.inputs[0].name, list(metadata.inputs[0].shape)) == ("features", [-1, WIDTH])
    assert metadata.outputs[0].name == "risk"


def test_grpc_and_http_give_the_same_risks(each_served: Served, grpc_client: Any) -> None:
    risks = grpc_client.infer("payments", [tensor(ROWS)], request_id="seven")
    assert risks.get_response().id == "seven"
    with tritonclient.http.InferenceServerClient(each_served.address) as other:
        same = tritonclient.http.InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
        assert (other.infer("payments", [same]).as_numpy("risk") == risks.as_numpy("risk")).all()


def test_typed_contents_give_the_same_as_raw_ones(grpc_client: Any, channel: grpc.Channel) -> None:
    request = service_pb2.ModelInferRequest(model_name="payments")
    part = request.inputs.add(name="features", datatype="FP32", shape=ROWS.shape)
    part.contents.fp32_contents.extend(ROWS.ravel().tolist())
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    raw = grpc_client.infer("payments", [tensor(ROWS)]).as_numpy("risk")
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
    grpc_client: Any, model: str, version: str, rows: np.ndarray, name: str, wanted: str
) -> None:
    with pytest.raises(InferenceServerException, match=wanted):
        grpc_client.infer(model, [tensor(rows, name)], model_version=version)


@pytest.mark.parametrize(("datatype", "kind"), [("FP64", "f8"), ("INT8", "i1"), ("BOOL", "?"), ("INT64", "i8")])
def test_another_datatype_is_refused_by_name(grpc_client: Any, datatype: str, kind: str) -> None:
    with pytest.raises(InferenceServerException, match=f"datatype: got '{datatype}', wanted FP32"):
        grpc_client.infer("payments", [tensor(ROWS[:1].astype(kind), datatype=datatype)])


def test_typed_contents_of_another_type_or_beside_raw_ones_are_refused(channel: grpc.Channel) -> None:
    request = service_pb2.ModelInferRequest(model_name="payments")
    part = request.inputs.add(name="features", datatype="FP32", shape=[1, WIDTH])
    part.contents.fp64_contents.extend([1.0] * WIDTH)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError, match="contents: got fp64_contents, wanted fp32_contents"):
        stub.ModelInfer(request)
    request.raw_input_contents.append(ROWS[:1].tobytes())
    with pytest.raises(grpc.RpcError, match="contents: got fp64_contents and raw_input_contents"):
        stub.ModelInfer(request)


def test_an_output_is_asked_for_by_its_name(grpc_client: Any) -> None:
    answer = grpc_client.infer("payments", [tensor(ROWS)], outputs=[triton.InferRequestedOutput("risk")])
    assert answer.as_numpy("risk").shape == (len(ROWS), 1)
    with pytest.raises(InferenceServerException, match="outputs: got 'y', wanted 'risk'"):
        grpc_client.infer("payments", [tensor(ROWS)], outputs=[triton.InferRequestedOutput("y")])
    with pytest.raises(InferenceServerException, match="got 'classification', which is not offered"):
        grpc_client.infer("payments", [tensor(ROWS)], outputs=[triton.InferRequestedOutput("risk", class_count=1)])


def test_parameters_no_one_knows_are_ignored(grpc_client: Any) -> None:
    known = grpc_client.infer("payments", [tensor(ROWS)]).as_numpy("risk")
    asked = {"priority": 3, "sequence_id": 7, "sequence_start": True, "timeout": 10_000_000, "client_timeout": 10.0}
    answer = grpc_client.infer("payments", [tensor(ROWS)], **asked, parameters={"colour": "red", "sure": True})
    assert (answer.as_numpy("risk") == known).all()


def test_a_call_that_is_already_late_is_answered_so_and_not_run(grpc_client: Any) -> None:
    def count() -> int:
        found: int = grpc_client.get_inference_statistics("payments").model_stats[0].inference_count
        return found

    before = count()
    with pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED.*deadline passed .* ms before"):
        grpc_client.infer("payments", [tensor(ROWS)], timeout=1)
    assert count() == before


def test_a_compressed_call_gets_the_same_answer(grpc_client: Any) -> None:
    plain = grpc_client.infer("payments", [tensor(ROWS)]).as_numpy("risk")
    same = grpc_client.infer("payments", [tensor(ROWS)], compression_algorithm="gzip").as_numpy("risk")
    assert (same == plain).all()


def test_deflate_is_taken_by_grpcio_and_refused_by_name_by_pygrpc_native(
    served: Served, served_plainly: Served
) -> None:
    with triton.InferenceServerClient(served_plainly.grpc_address) as other:
        plain = other.infer("payments", [tensor(ROWS)]).as_numpy("risk")
        same = other.infer("payments", [tensor(ROWS)], compression_algorithm="deflate").as_numpy("risk")
    assert (same == plain).all()
    with (
        triton.InferenceServerClient(served.grpc_address) as other,
        pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED.*`deflate` which isn't supported"),
    ):
        other.infer("payments", [tensor(ROWS)], compression_algorithm="deflate")


@pytest.mark.parametrize("method", ["inference.GRPCInferenceService/ModelInfer", "vigil.v1.Decisions/Score"])
def test_a_message_that_cannot_be_decoded_is_refused_and_not_logged(
    each_served: Served, channel: grpc.Channel, method: str
) -> None:
    before = len(each_served.log.read_bytes())  # other tests' bad calls may be in it
    with pytest.raises(grpc.RpcError, match="message: got 3 bytes that are not the call's protobuf") as caught:
        channel.unary_unary(f"/{method}")(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert b"Traceback" not in each_served.log.read_bytes()[before:]


def test_calls_that_come_at_once_are_all_answered(each_served: Served) -> None:
    request = service_pb2.ModelInferRequest(model_name="payments", raw_input_contents=[ROWS[:1].tobytes()])
    request.inputs.add(name="features", datatype="FP32", shape=[1, WIDTH])

    async def main() -> list[Any]:
        async with grpc.aio.insecure_channel(each_served.grpc_address) as opened:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(opened)
            return await asyncio.gather(*(stub.ModelInfer(request) for _ in range(3000)))

    assert len({answer.raw_output_contents[0] for answer in asyncio.run(main())}) == 1


def test_calls_that_are_cancelled_leave_the_others_alone(each_served: Served) -> None:
    request = pb.ScoreRequest(domain="payments", events=[event("cancelled")])

    async def main() -> Any:
        async with grpc.aio.insecure_channel(each_served.grpc_address) as opened:
            stub = decisions_pb2_grpc.DecisionsStub(opened)
            calls = [stub.Score(request) for _ in range(200)]
            await calls[0]
            for call_ in calls[1::2]:
                call_.cancel()
            return await asyncio.gather(*calls[::2])

    assert {answer.decisions[0].event_id for answer in asyncio.run(main())} == {"cancelled"}


def test_compression_does_not_get_around_the_limit_of_a_message(grpc_client: Any) -> None:
    with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
        grpc_client.infer("payments", [tensor(np.zeros((2000, WIDTH), np.float32))], compression_algorithm="gzip")


def test_asynchronous_calls_are_each_answered_with_their_own(grpc_client: Any) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for i, row in enumerate(ROWS):
        grpc_client.async_infer(
            "payments", [tensor(row[None])], lambda result, error: done.put((result, error)), request_id=str(i)
        )
    answers = {}
    for _ in ROWS:
        result, error = done.get(timeout=30)
        assert error is None
        answers[int(result.get_response().id)] = result.as_numpy("risk")
    together = grpc_client.infer("payments", [tensor(ROWS)]).as_numpy("risk")
    assert (np.concatenate([answers[i] for i in range(len(ROWS))]) == together).all()


def test_an_asyncio_client_sees_and_infers(each_served: Served, grpc_client: Any) -> None:
    async def main() -> np.ndarray:
        async with aio.InferenceServerClient(each_served.grpc_address) as other:
            assert await other.is_server_live()
            assert await other.is_server_ready()
            assert await other.is_model_ready("payments")
            assert (await other.get_model_metadata("payments")).name == "payments"
            assert (await other.get_model_repository_index()).models[0].state == "READY"
            risks: np.ndarray = (await other.infer("payments", [tensor(ROWS)])).as_numpy("risk")
            return risks

    assert (asyncio.run(main()) == grpc_client.infer("payments", [tensor(ROWS)]).as_numpy("risk")).all()


def test_configuration_and_statistics_are_those_of_http(each_served: Served, grpc_client: Any) -> None:
    grpc_client.infer("payments", [tensor(ROWS)])
    with tritonclient.http.InferenceServerClient(each_served.address) as other:
        configuration, statistics = other.get_model_config("payments"), other.get_inference_statistics()
    config = grpc_client.get_model_config("payments").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (configuration["max_batch_size"], [WIDTH])
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32
    assert config.HasField("dynamic_batching")
    for same in (grpc_client.get_inference_statistics(), grpc_client.get_inference_statistics("payments")):
        (mine,), (theirs,) = same.model_stats, statistics["model_stats"]
        assert (mine.version, mine.inference_count) == (theirs["version"], theirs["inference_count"])
        assert mine.inference_stats.compute_infer.ns == theirs["inference_stats"]["compute_infer"]["ns"] > 0
        assert len(mine.batch_stats) == len(theirs["batch_stats"])


def test_a_call_that_is_not_offered_is_unimplemented(each_served: Served, grpc_client: Any) -> None:
    before = len(each_served.log.read_bytes())
    with pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED"):
        grpc_client.get_system_shared_memory_status()
    assert b"Traceback" not in each_served.log.read_bytes()[before:]


def test_a_method_no_one_knows_is_unimplemented(channel: grpc.Channel) -> None:
    for method in ("/inference.GRPCInferenceService/Nope", "/nobody.Service/Call"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_another_repository_is_refused(channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError, match="repository_name: got 'other', wanted none: there is one"):
        stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(repository_name="other"))


def test_a_message_over_the_limit_is_refused(grpc_client: Any) -> None:
    with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
        grpc_client.infer("payments", [tensor(np.zeros((2000, WIDTH), np.float32))])


def test_events_get_the_same_decisions_as_over_http(each_served: Served, channel: grpc.Channel) -> None:
    events = [event("grpc-1", 250.0, "C-grpc"), event("grpc-2", 12.0, "C-grpc")]
    stub = decisions_pb2_grpc.DecisionsStub(channel)
    answer = stub.Score(pb.ScoreRequest(domain="payments", events=events, with_features=True))
    plain = [payment(e.event_id, ts=NOON_MS, customer="C-grpc", amount=e.numbers["amount"]) for e in events]
    same = call(each_served.port, "POST", "/v1/payments/score?features=true", plain).json
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
    for name in ("", "inference.GRPCInferenceService", "payments", "vigil.v1.Decisions"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_shows_services_and_their_messages(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"inference.GRPCInferenceService", "vigil.v1.Decisions"} <= set(database.get_services())
    score = DescriptorPool(database).FindServiceByName("vigil.v1.Decisions").methods_by_name["Score"]
    assert "events" in score.input_type.fields_by_name
