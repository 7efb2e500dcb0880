"""Bytes that no client sends, on both ports of a running service: nothing hangs, nothing breaks, no trace is logged."""

from __future__ import annotations

import errno
import json
import random
import socket
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from testbed.served import LOCALHOST, Served
from tests.serving.calls import call, payment, tensor
from vigil import domains
from vigil.transports.proto import decisions_pb2

WIDTH = len(domains.load("payments").features)
INFER = "/v2/models/payments/infer"
STREAMS = ("inference.GRPCInferenceService/ModelStreamInfer", "vigil.v1.Decisions/ScoreStream")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BODIES = {
    "/v1/payments/score": json.dumps(payment("ports")).encode(),
    INFER: json.dumps(tensor([[1.0] * WIDTH])).encode(),
    "/v2/repository/index": b"{}",
}


@pytest.fixture(autouse=True)
def untroubled(served: Served) -> Iterator[None]:
    """Afterwards the service answers, and its log has gained no trace."""
    before = served.log.read_text().count("Traceback")
    yield
    assert call(served.port, "POST", INFER, tensor([[1.0] * WIDTH])).status == 200
    assert call(served.port, "POST", "/v1/payments/score", payment("untroubled")).json["tier"] == "full"
    with grpc.insecure_channel(served.grpc_address) as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=10)
    assert ready == b"\x08\x01"
    log = served.log.read_text()
    assert log.count("Traceback") == before, log[-3000:]


def talk(port: int, sent: bytes) -> bytes:
    """What comes back until the other end closes, which it is to do once ours is."""
    with socket.create_connection((LOCALHOST, port), timeout=20) as connection:
        received = b""
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                received += part
        except OSError as failure:
            if failure.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise  # else: refused before all of it was sent
        return received


def mutated(plain: bytes, chance: random.Random) -> bytes:
    """`plain` with bytes changed, left out and put in."""
    changed = bytearray(plain)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(changed) + 1)
        changed[at : at + chance.choice((0, 1, 1, 8))] = chance.randbytes(chance.choice((0, 1, 1, 8)))
    return bytes(changed)


def http_request(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    return f"{head}Connection: close\r\n\r\n".encode() + body


def statuses(received: bytes) -> set[bytes]:
    return {line.split(b" ")[1] for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}


@pytest.mark.parametrize("path", list(BODIES))
def test_a_request_with_bytes_changed_is_answered_or_the_connection_ends(served: Served, path: str) -> None:
    chance = random.Random(path)
    for _ in range(100):
        sent = mutated(http_request(path, BODIES[path]), chance)
        assert b"500" not in statuses(talk(served.port, sent)), sent


def test_random_bytes_end_a_connection_of_either_port(served: Served) -> None:
    chance = random.Random(1)
    for size in (1, 9, 24, 300, 5000):
        for begin in (b"", b"POST /v1/payments/score HTTP/1.1\r\n", PREFACE, PREFACE + b"\0\0\0\4\0\0\0\0\0"):
            for port in (served.port, served.grpc_port):
                assert b"500" not in statuses(talk(port, begin + chance.randbytes(size)))


@pytest.mark.parametrize(
    "head",
    [
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n{}  ",
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"POST %s?%%ff=%%00 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]",
        b"POST %s/%%00%%ff/../.. HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"POST %s HTTP/9.9\r\n\r\n",
        b"BREW %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda head: head[:60].decode("latin-1"),
)
def test_a_head_that_cannot_be_is_refused(served: Served, head: bytes) -> None:
    for path in BODIES:
        received = talk(served.port, head % path.encode())
        assert not statuses(received) & {b"200", b"500"}, received[:300]


@pytest.mark.parametrize(
    ("target", "header"),
    [(b"", b"x: " + b"x" * 200_000), (b"", b"\r\n".join([b"x: y"] * 20_000)), (b"/" + b"%41" * 50_000, b"x: y")],
    ids=["a long header", "many headers", "a long path"],
)
def test_a_head_of_any_size_breaks_nothing(served: Served, target: bytes, header: bytes) -> None:
    for path in BODIES:
        sent = b"POST " + path.encode() + target + b" HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n"
        assert b"500" not in statuses(talk(served.port, sent))


@pytest.mark.parametrize(
    "method",
    [
        "inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/RepositoryIndex",
        "inference.GRPCInferenceService/ModelStatistics",
        "vigil.v1.Decisions/Score",
        "vigil.v1.Decisions/Feedback",
        "nothing.Here/AtAll",
    ],
)
def test_a_message_of_any_bytes_is_the_fault_of_its_caller(each_served: Served, method: str) -> None:
    chance, rows = random.Random(method), np.ones((1, WIDTH), np.float32)
    infer = service_pb2.ModelInferRequest(model_name="payments", raw_input_contents=[rows.tobytes()])
    infer.inputs.add(name="features", datatype="FP32", shape=rows.shape)
    event = decisions_pb2.Event(
        event_id="p", ts_ms=1_538_308_800_000, entities={"customer": "C"}, numbers={"amount": 1}
    )
    score = decisions_pb2.ScoreRequest(domain="payments", events=[event])
    plain = [message.SerializeToString() for message in (infer, score)]
    bodies = [chance.randbytes(chance.choice((1, 8, 100, 2000))) for _ in range(60)]
    bodies += [mutated(each, chance) for each in plain for _ in range(60)]
    with grpc.insecure_channel(each_served.grpc_address) as channel:
        ask = channel.unary_unary(f"/{method}")
        failures = [failure for body in bodies if (failure := ask.future(body, timeout=20).exception())]
    assert {failure.code().name for failure in failures} <= {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}


@pytest.mark.parametrize(
    "method", ["inference.GRPCInferenceService/ModelStreamInfer", "vigil.v1.Decisions/ScoreStream"]
)
def test_bytes_amid_a_stream_are_answered_at_their_place_and_it_goes_on(each_served: Served, method: str) -> None:
    with grpc.insecure_channel(each_served.grpc_address) as channel:
        answers = list(channel.stream_stream(f"/{method}")(iter([b"", b"\xff\xff", b""]), timeout=20))
    assert [b"not the call's protobuf message" in answer for answer in answers] == [False, True, False]
