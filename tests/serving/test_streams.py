"""Bidirectional streams of a running service: an answer a message, in order, errors in their place."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import aio, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from testbed.served import Served
from vigil import domains
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc

WIDTH = len(domains.load("payments").features)
ROWS = np.random.default_rng(8).normal(0, 30, (40, WIDTH)).astype(np.float32)
NOON_MS = 1_538_308_800_000


def tensor(rows: np.ndarray) -> Any:
    return triton.InferInput("features", list(rows.shape), "FP32").set_data_from_numpy(rows)


def event(event_id: str, amount: float = 31.5) -> pb.Event:
    entities = {"customer": "C-stream", "terminal": "T-stream"}
    return pb.Event(event_id=event_id, ts_ms=NOON_MS, entities=entities, numbers={"amount": amount})


def test_a_stream_gives_the_answers_of_single_calls_in_order(grpc_client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    grpc_client.start_stream(lambda result, error: answers.put((result, error)))
    for i, row in enumerate(ROWS):
        grpc_client.async_stream_infer("payments", [tensor(row[None])], request_id=str(i))
    grpc_client.stop_stream()
    got = [answers.get(timeout=30) for _ in ROWS]
    assert [error for _, error in got] == [None] * len(ROWS)
    assert [result.get_response().id for result, _ in got] == [str(i) for i in range(len(ROWS))]
    alone = grpc_client.infer("payments", [tensor(ROWS)]).as_numpy("risk")
    assert (np.concatenate([result.as_numpy("risk") for result, _ in got]) == alone).all()


def test_an_error_is_answered_in_its_place_and_the_stream_goes_on(grpc_client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    grpc_client.start_stream(lambda result, error: answers.put((result, error)))
    grpc_client.async_stream_infer("payments", [tensor(ROWS[:1])], request_id="good")
    grpc_client.async_stream_infer("payments", [tensor(ROWS[:1, :3])], request_id="bad")
    grpc_client.async_stream_infer("nope", [tensor(ROWS[:1])])
    grpc_client.async_stream_infer("payments", [tensor(ROWS[:1])], request_id="good again")
    grpc_client.stop_stream()
    got = [answers.get(timeout=30) for _ in range(4)]
    assert [result and result.get_response().id for result, _ in got] == ["good", None, None, "good again"]
    assert str(got[1][1]).startswith("[INVALID_ARGUMENT] input 'features': shape: got [1, 3], wanted")
    assert str(got[2][1]) == "[NOT_FOUND] no model 'nope'; there are payments"


def test_an_answer_that_is_an_error_carries_its_request_s_id(channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    requests = [service_pb2.ModelInferRequest(model_name="payments", id=each) for each in ("a", "b")]
    answers = list(stub.ModelStreamInfer(iter(requests)))
    assert [answer.infer_response.id for answer in answers] == ["a", "b"]
    assert {answer.error_message for answer in answers} == {
        "[INVALID_ARGUMENT] inputs: got [], wanted one tensor named 'features'"
    }


@pytest.mark.parametrize(
    "method", ["inference.GRPCInferenceService/ModelStreamInfer", "vigil.v1.Decisions/ScoreStream"]
)
def test_a_message_that_cannot_be_decoded_is_answered_in_its_place(channel: grpc.Channel, method: str) -> None:
    requests = [pb.ScoreRequest(domain="?").SerializeToString(), b"\xff\xff\xff", b""]
    answers = list(channel.stream_stream(f"/{method}")(iter(requests)))
    assert [b"message: got 3 bytes" in answer for answer in answers] == [False, True, False]


def test_an_asyncio_client_streams(each_served: Served) -> None:
    async def asked() -> AsyncIterator[dict[str, Any]]:
        for i, row in enumerate(ROWS):
            yield {"model_name": "payments", "inputs": [tensor(row[None])], "request_id": str(i)}

    async def main() -> list[tuple[Any, InferenceServerException | None]]:
        async with aio.InferenceServerClient(each_served.grpc_address) as client:
            return [answer async for answer in client.stream_infer(asked())]

    got = asyncio.run(main())
    assert [error for _, error in got] == [None] * len(ROWS)
    assert [result.get_response().id for result, _ in got] == [str(i) for i in range(len(ROWS))]


def test_a_long_stream_loses_nothing(channel: grpc.Channel) -> None:
    requests = (pb.ScoreRequest(domain="payments", events=[event(f"long-{i}")]) for i in range(2000))
    answers = decisions_pb2_grpc.DecisionsStub(channel).ScoreStream(requests)
    assert [answer.decisions[0].event_id for answer in answers] == [f"long-{i}" for i in range(2000)]


def test_a_stream_of_events_gets_decisions_in_order_and_errors_in_their_place(channel: grpc.Channel) -> None:
    requests = [
        pb.ScoreRequest(domain="payments", events=[event("s1", 10.0)], with_features=True),
        pb.ScoreRequest(domain="payments", events=[event("s2", -1.0)]),
        pb.ScoreRequest(domain="parcels", events=[event("s2")]),
        pb.ScoreRequest(domain="payments", events=[event("s3", 20.0), event("s4", 30.0)]),
    ]
    one, bad, unknown, two = decisions_pb2_grpc.DecisionsStub(channel).ScoreStream(iter(requests))
    assert [decision.event_id for decision in one.decisions] == ["s1"]
    assert set(one.decisions[0].features) == set(domains.load("payments").feature_names)
    assert not one.HasField("error")
    assert (bad.error.code, bad.error.message[:22]) == ("INVALID_ARGUMENT", "amount: got -1.0, want")
    assert (unknown.error.code, unknown.error.message) == ("NOT_FOUND", "no domain 'parcels'; there are payments")
    assert [decision.event_id for decision in two.decisions] == ["s3", "s4"]


def test_an_event_of_a_stream_is_seen_by_the_next_of_the_same_stream(channel: grpc.Channel) -> None:
    customer = {"customer": "C-counted", "terminal": "T-counted"}
    requests = [
        pb.ScoreRequest(
            domain="payments",
            events=[pb.Event(event_id=f"counted-{i}", ts_ms=NOON_MS + i, entities=customer, numbers={"amount": 5.0})],
            with_features=True,
        )
        for i in range(20)
    ]
    answers = decisions_pb2_grpc.DecisionsStub(channel).ScoreStream(iter(requests))
    counts = [dict(answer.decisions[0].features)["customer_count_1d"] for answer in answers]
    assert counts == sorted(counts)
    assert counts[-1] - counts[0] == 19


def test_a_stream_that_is_cancelled_ends_and_the_service_goes_on(grpc_client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    grpc_client.start_stream(lambda result, error: answers.put((result, error)))
    grpc_client.async_stream_infer("payments", [tensor(ROWS[:1])])
    assert answers.get(timeout=30)[1] is None
    grpc_client.stop_stream(cancel_requests=True)
    assert grpc_client.infer("payments", [tensor(ROWS)]).as_numpy("risk").shape == (len(ROWS), 1)
