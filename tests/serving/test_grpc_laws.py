"""What no caller of gRPC can do: make the service hold memory, keep others waiting, or get a long answer."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from testbed.served import Served, free_port
from tests.serving import http2
from tests.serving.calls import call, payment
from tests.serving.http2 import DATA, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, Connection
from vigil import domains
from vigil.errors import Unavailable
from vigil.feed.feed import wait_ready
from vigil.feed.senders import GrpcSender, HttpSender
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc

MOST_BYTES = 128 << 20  # that one connection makes a service hold
MOST_METADATA_BYTES = 512 << 20  # and with 64 KB of metadata in each of its calls
MOST_WAIT_S = 1.0
MOST_WAIT_BEHIND_CALLS_S = 2.0  # 4,096 whole calls of another connection are answered first
STREAM = "/vigil.v1.Decisions/ScoreStream"
CANCEL = struct.pack("!I", 8)
DOMAIN = domains.load("payments")


def resets(path: str = http2.SCORE, count: int = 200_000) -> Iterator[bytes]:
    """Calls that are reset as soon as they are opened: rapid reset, CVE-2023-44487."""
    block = http2.head(path, http2.header(b"x", b"y" * 20))
    for i in range(0, count, 1000):
        yield b"".join(
            http2.headers(2 * j + 1, block) + http2.frame(RST_STREAM, 0, 2 * j + 1, CANCEL) for j in range(i, i + 1000)
        )


def stream_resets() -> Iterator[bytes]:
    """Streams of messages that are reset as soon as they are opened."""
    yield from resets(STREAM, 60_000)


def open_calls() -> Iterator[bytes]:
    """Calls whose message never comes."""
    block = http2.head()
    for i in range(0, 100_000, 1000):
        yield b"".join(http2.headers(2 * j + 1, block) for j in range(i, i + 1000))


def whole_calls() -> Iterator[bytes]:
    """More calls than a client may have open."""
    block, message = http2.head(), b"\0\0\0\0\x0a\x0a\x08payments"
    for i in range(0, 60_000, 500):
        yield b"".join(
            http2.headers(2 * j + 1, block) + http2.frame(DATA, END_STREAM, 2 * j + 1, message)
            for j in range(i, i + 500)
        )


def metadata() -> Iterator[bytes]:
    """64 KB of metadata a call."""
    block = http2.head(extra=http2.header(b"x-a", b"v" * 64_000))
    for i in range(6000):
        yield http2.headers(2 * i + 1, block)


def allowed_metadata() -> Iterator[bytes]:
    """7 KB of metadata a call."""
    block = http2.head(extra=http2.header(b"x-a", b"v" * 7000))
    for i in range(8000):
        yield http2.headers(2 * i + 1, block)


def continuations() -> Iterator[bytes]:
    """A head that never ends: CVE-2024-27316."""
    yield http2.frame(HEADERS, 0, 1, http2.head())
    part = http2.frame(http2.CONTINUATION, 0, 1, http2.header(b"a", b"b" * 16_000))
    yield from [part] * 4000


def empty_continuations() -> Iterator[bytes]:
    """A head that never ends, in frames of nothing."""
    yield http2.frame(HEADERS, 0, 1, http2.head())
    yield from [http2.frame(http2.CONTINUATION, 0, 1) * 1000] * 300


def pings() -> Iterator[bytes]:
    """Pings at full speed: CVE-2019-9512."""
    yield from [http2.frame(PING, 0, 0, b"12345678") * 2000] * 500


def settings() -> Iterator[bytes]:
    """Settings at full speed: CVE-2019-9515."""
    yield from [http2.frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 65_535)) * 2000] * 500


def empty_windows() -> Iterator[bytes]:
    """Window updates of nothing."""
    yield from [http2.frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 0)) * 1000] * 1000


ATTACKS = (
    resets, stream_resets, open_calls, whole_calls, metadata, allowed_metadata,
    continuations, empty_continuations, pings, settings, empty_windows,
)  # fmt: skip


@pytest.mark.parametrize("reads", [True, False], ids=["reads and agrees", "reads nothing"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
def test_one_connection_neither_fills_the_memory_nor_keeps_others_waiting(
    each_served: Served, attack: Callable[[], Iterator[bytes]], reads: bool
) -> None:
    most_wait_s = MOST_WAIT_BEHIND_CALLS_S if attack is whole_calls else MOST_WAIT_S
    for _ in range(3):  # a wait that the server makes comes each time, one that a busy machine makes does not
        with http2.watched(each_served) as watch, Connection(each_served.grpc_port, reads, for_s=3) as connection:
            if reads:
                connection.agree()
            for data in attack():
                if not connection.send(data):
                    break
            time.sleep(0.5)
        assert not watch.failures
        if max(watch.waits_s) < most_wait_s:
            break
    assert max(watch.waits_s) < most_wait_s
    assert watch.grown_bytes < (MOST_METADATA_BYTES if attack in (metadata, allowed_metadata) else MOST_BYTES)


def test_a_message_is_bounded_once_unpacked(served_plainly: Served) -> None:
    for bomb in (http2.bomb(64), http2.bomb(256)):
        for path in (http2.SCORE, STREAM):
            with http2.watched(served_plainly) as watch, Connection(served_plainly.grpc_port) as connection:
                connection.message(path, bomb, packed=True)
                until_s = time.monotonic() + 10
                while not connection.ended() and time.monotonic() < until_s:
                    time.sleep(0.05)
                assert b"larger than max" in connection.received
            assert watch.grown_bytes < 32 << 20


def test_a_stream_outlives_pings_of_its_client(each_served: Served) -> None:
    with Connection(each_served.grpc_port) as connection:
        connection.send(http2.headers(1, http2.head(STREAM)))
        for i in range(8):
            connection.send(http2.frame(PING, 0, 0, b"still %02d" % i))
            time.sleep(0.6)
        kinds = [(kind, flags) for kind, flags, _, _ in connection.frames()]
    assert http2.GOAWAY not in [kind for kind, _ in kinds]
    assert kinds.count((PING, http2.ACK)) == 8


def test_a_client_without_calls_may_ping(each_served: Served) -> None:
    with Connection(each_served.grpc_port) as connection:
        for i in range(6):
            connection.send(http2.frame(PING, 0, 0, b"still %02d" % i))
            time.sleep(0.6)
        assert http2.GOAWAY not in [kind for kind, *_ in connection.frames()]


@pytest.mark.parametrize(("connections", "calls_each"), [(1, 3000), (16, 200)])
def test_calls_at_once_of_clients_that_keep_to_the_limit_are_never_cut_off(
    each_served: Served, connections: int, calls_each: int
) -> None:
    request = pb.ScoreRequest(domain="payments")
    request.events.add(
        event_id="m", ts_ms=1_538_308_800_000, entities={"customer": "C1", "terminal": "T1"}, numbers={"amount": 3}
    )

    async def main() -> set[str]:
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(each_served.grpc_address, options=own) for _ in range(connections)]
        stubs = [decisions_pb2_grpc.DecisionsStub(channel) for channel in channels]
        calls = [stub.Score(request) for stub in stubs for _ in range(calls_each)]
        codes = {(await each.code()).name for each in calls}
        for channel in channels:
            await channel.close()
        return codes

    assert asyncio.run(main()) <= {"OK", "RESOURCE_EXHAUSTED"}


LONG = "n" * 60_000


def infer(**changes: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="payments")
    request.inputs.add(name="features", datatype="FP32", shape=[1, 2])
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def named_input() -> Any:
    request = infer()
    request.inputs[0].name = LONG
    return request


def named_datatype() -> Any:
    request = infer()
    request.inputs[0].datatype = LONG
    return request


def named_output() -> Any:
    request = infer()
    request.outputs.add(name=LONG).parameters["classification"].int64_param = 3
    return request


def scored(**changes: Any) -> Any:
    request = pb.ScoreRequest(domain=changes.pop("domain", "payments"))
    event = {"event_id": "e", "ts_ms": 1, "entities": {"customer": "C", "terminal": "T"}, "numbers": {"amount": 3}}
    request.events.add(**{**event, **changes})
    return request


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("inference.GRPCInferenceService/ModelInfer", infer(model_name=LONG)),
        ("inference.GRPCInferenceService/ModelInfer", infer(model_version=LONG)),
        ("inference.GRPCInferenceService/ModelInfer", named_input()),
        ("inference.GRPCInferenceService/ModelInfer", named_datatype()),
        ("inference.GRPCInferenceService/ModelInfer", named_output()),
        ("inference.GRPCInferenceService/ModelMetadata", service_pb2.ModelMetadataRequest(name=LONG)),
        ("inference.GRPCInferenceService/ModelStatistics", service_pb2.ModelStatisticsRequest(name=LONG)),
        (
            "inference.GRPCInferenceService/ModelStatistics",
            service_pb2.ModelStatisticsRequest(name="payments", version=LONG),
        ),
        (
            "inference.GRPCInferenceService/RepositoryModelLoad",
            service_pb2.RepositoryModelLoadRequest(model_name=LONG),
        ),
        ("vigil.v1.Decisions/Score", scored(domain=LONG)),
        ("vigil.v1.Decisions/Score", scored(event_id=LONG)),
        ("vigil.v1.Decisions/Score", scored(entities={LONG: "C"})),
        ("vigil.v1.Decisions/Score", scored(numbers={LONG: 1.0})),
        ("vigil.v1.Decisions/Feedback", pb.FeedbackRequest(domain=LONG)),
        ("x.Y/" + "n" * 6000, pb.FeedbackRequest()),
        ("grpc.health.v1.Health/Check", pb.FeedbackRequest(domain=LONG)),
    ],
    ids=str,
)
def test_a_long_name_comes_back_cut_short_over_grpc(channel: grpc.Channel, method: str, request_: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{method}")(request_.SerializeToString(), timeout=10)
    assert caught.value.code().name in ("NOT_FOUND", "INVALID_ARGUMENT", "UNIMPLEMENTED")
    assert len(caught.value.details()) < 1000


def test_a_long_name_in_a_stream_comes_back_cut_short(channel: grpc.Channel) -> None:
    (scores,) = decisions_pb2_grpc.DecisionsStub(channel).ScoreStream(iter([scored(domain=LONG)]), timeout=10)
    assert len(scores.error.message) < 1000
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    (risks,) = stub.ModelStreamInfer(iter([infer(model_name=LONG)]), timeout=10)
    assert len(risks.error_message) < 1000


TENSOR = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
INFER = "/v2/models/payments/infer"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"/v1/{LONG}/score", payment("e")),
        ("POST", f"/v1/{LONG}/feedback", {}),
        ("POST", "/v1/payments/score", payment("e") | {LONG: 1}),
        ("POST", "/v1/payments/score", payment(LONG)),
        ("POST", "/v1/payments/score?" + LONG, payment("e")),
        ("POST", "/v1/payments/feedback", {"event_id": "e", LONG: 1}),
        ("POST", f"/v2/models/{LONG}/infer", {"inputs": [TENSOR]}),
        ("POST", f"/v2/models/payments/versions/{LONG}/infer", {"inputs": [TENSOR]}),
        ("POST", INFER, {"inputs": [TENSOR | {"name": LONG}]}),
        ("POST", INFER, {"inputs": [TENSOR | {"datatype": LONG}]}),
        ("POST", INFER, {"inputs": [TENSOR], "outputs": [{"name": LONG}]}),
        ("POST", INFER, {"inputs": [TENSOR], LONG: 1}),
        ("POST", INFER, {"inputs": [TENSOR | {LONG: 1}], "model_name": LONG}),
        ("GET", f"/v2/models/{LONG}", None),
        ("GET", f"/v2/models/payments/versions/{LONG}/stats", None),
        ("GET", f"/v1/decisions/{LONG}", None),
        ("GET", f"/v1/decisions/e?domain={LONG}", None),
        ("GET", f"/v1/{LONG}", None),
        ("n" * 2000, "/v2", None),
        ("POST", f"/v2/repository/models/{LONG}/load", {}),
        ("POST", "/v2/repository/index", {LONG: 1}),
    ],
    ids=range(21),
)
def test_a_long_name_comes_back_cut_short_over_http(each_served: Served, method: str, path: str, body: Any) -> None:
    answer = call(each_served.port, method, path, body if body is None else json.dumps(body).encode())
    assert answer.status < 500
    assert len(answer.body) < 2000


@pytest.mark.parametrize("sender", [GrpcSender, HttpSender])
def test_a_proxy_in_the_environment_does_not_come_between_the_feed_and_this_machine(
    each_served: Served, sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def main() -> bool:
        port = each_served.port if sender is HttpSender else each_served.grpc_port
        async with sender(DOMAIN, f"localhost:{port}") as opened:
            return bool(await opened.ready())

    assert asyncio.run(main())


def test_elsewhere_an_error_names_the_proxy_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("grpc_proxy", f"http://me:{quote('secret')}@127.0.0.1:{port}")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def main() -> None:
        async with GrpcSender(DOMAIN, "192.0.2.1:3001") as opened:
            with pytest.raises(Unavailable, match=rf"^192.0.2.1:3001 by the proxy grpc_proxy=127.0.0.1:{port}: "):
                await wait_ready(opened, 0.1)
            with pytest.raises(Unavailable, match=rf"^192.0.2.1:3001 by the proxy grpc_proxy=127.0.0.1:{port}: "):
                await opened.feedback("e", 1)

    asyncio.run(main())
