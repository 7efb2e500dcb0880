"""What a collector gets of calls: which are sampled, whose children they are, what they went through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from testbed.served import LOCALHOST, free_port
from tests.serving.calls import payment
from tests.serving.collector import Collector, parent
from vigil.errors import ConfigError
from vigil.observe import tracing
from vigil.serving.process import ServingProcess
from vigil.settings import Settings
from vigil.transports.http.lane import Lane
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc

SCORE = "/v1/payments/score"
SERVER, INTERNAL = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_INTERNAL
UNSET, ERROR = trace_pb2.Status.STATUS_CODE_UNSET, trace_pb2.Status.STATUS_CODE_ERROR
Use = Callable[[httpx.AsyncClient, str], Coroutine[Any, Any, Any]]


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the lane."""


@pytest.fixture
def collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bento"))
    with Collector() as opened:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", opened.url)
        yield opened


def run(folder: Path, use: Use) -> Any:
    """What `use` gives, with a client of a lane and the address of the gRPC port; all spans are sent then."""

    async def main() -> Any:
        port = free_port()
        worker = ServingProcess(Settings(state_dir=folder / "state", domains="payments", grpc_port=port))
        await worker.start()
        transport = httpx.ASGITransport(Lane(behind, worker))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await use(client, f"{LOCALHOST}:{port}")
            finally:
                await worker.stop()

    return asyncio.run(main())


def test_a_sampled_call_is_a_child_of_its_caller(tmp_path: Path, collector: Collector) -> None:
    async def use(client: httpx.AsyncClient, address: str) -> None:
        await client.post(SCORE, json=payment("a"), headers=parent(1) | {"tracestate": "vendor=x"})

    run(tmp_path, use)
    span = collector.named(f"{1:032x}")["POST /v1/{domain}/score"]
    assert (span.parent_id, span.kind, span.status, span.state) == (f"{1:016x}", SERVER, UNSET, "vendor=x")
    assert span.service == "vigil"
    wanted = {"http.request.method": "POST", "http.route": "/v1/{domain}/score", "http.response.status_code": 200}
    assert wanted.items() <= span.attributes.items()


def test_a_call_shows_its_wait_and_what_its_batch_took(tmp_path: Path, collector: Collector) -> None:
    async def use(client: httpx.AsyncClient, address: str) -> None:
        calls = (client.post(SCORE, json=payment(f"b{i}"), headers=parent(i)) for i in (1, 2, 3))
        await asyncio.gather(*calls)

    run(tmp_path, use)
    traces = [collector.named(f"{i:032x}") for i in (1, 2, 3)]
    for i, spans in enumerate(traces):
        call, queue, batch = spans["POST /v1/{domain}/score"], spans["queue"], spans["batch"]
        assert {queue.parent_id, batch.parent_id} == {call.span_id}
        assert {spans["features"].parent_id, spans["model"].parent_id} == {batch.span_id}
        assert batch.attributes == {"vigil.domain": "payments", "vigil.batch.rows": 3, "vigil.batch.calls": 3}
        assert set(batch.links) == {t["POST /v1/{domain}/score"].span_id for j, t in enumerate(traces) if j != i}
        moments = [call.start_ns, queue.start_ns, batch.start_ns, spans["model"].end_ns, batch.end_ns, call.end_ns]
        assert moments == sorted(moments)


def test_who_is_not_sampled_leaves_no_span(tmp_path: Path, collector: Collector) -> None:
    async def use(client: httpx.AsyncClient, address: str) -> None:
        await client.post(SCORE, json=payment("c"), headers=parent(1, "00"))
        await client.post(SCORE, json=payment("d"), headers=parent(2, "02"))

    run(tmp_path, use)
    assert collector.spans == []


@pytest.mark.parametrize("bad", ["", "00", f"ff-{1:032x}-{1:016x}-01", f"00-{0:032x}-{1:016x}-01", "00-x-y-01"])
def test_without_a_valid_parent_a_call_is_a_root(tmp_path: Path, collector: Collector, bad: str) -> None:
    async def use(client: httpx.AsyncClient, address: str) -> None:
        await client.get("/v2", headers={"traceparent": bad})

    run(tmp_path, use)
    assert [(span.name, span.parent_id) for span in collector.spans] == [("GET /v2", "")]


def test_a_fault_of_the_server_is_an_error_and_one_of_the_caller_is_none(tmp_path: Path, collector: Collector) -> None:
    async def use(client: httpx.AsyncClient, address: str) -> None:
        await client.get("/v2/models/payments", headers=parent(1))
        await client.get("/v2/models/none", headers=parent(2))

    run(tmp_path, use)
    (fault,), (mistake,) = collector.of(f"{1:032x}"), collector.of(f"{2:032x}")
    assert (fault.status, fault.attributes["error.type"], fault.attributes["http.response.status_code"]) == (
        ERROR,
        "503",
        503,
    )
    assert (mistake.status, mistake.attributes["http.response.status_code"]) == (UNSET, 404)


def test_calls_and_streams_of_grpc_are_children_of_their_callers(tmp_path: Path, collector: Collector) -> None:
    event = pb.Event(event_id="g", ts_ms=1_538_308_800_000, entities={"customer": "C", "terminal": "T"})
    event.numbers["amount"] = 3.0

    async def use(client: httpx.AsyncClient, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = decisions_pb2_grpc.DecisionsStub(channel)
            await stub.Score(pb.ScoreRequest(domain="payments", events=[event]), metadata=tuple(parent(1).items()))
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Score(pb.ScoreRequest(domain="none"), metadata=tuple(parent(2).items()))
            stream = stub.ScoreStream(metadata=tuple(parent(3).items()))
            await stream.write(pb.ScoreRequest(domain="payments", events=[event]))
            await stream.done_writing()
            async for _ in stream:
                pass

    run(tmp_path, use)
    method = "vigil.v1.Decisions/Score"
    call = collector.named(f"{1:032x}")[method]
    assert (call.parent_id, call.kind, call.status) == (f"{1:016x}", SERVER, UNSET)
    wanted = {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": "OK"}
    assert wanted.items() <= call.attributes.items()
    assert collector.named(f"{1:032x}")["batch"].parent_id == call.span_id
    assert collector.of(f"{2:032x}")[0].attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert collector.named(f"{3:032x}")["batch"].parent_id == collector.named(f"{3:032x}")[method + "Stream"].span_id


def test_a_call_that_its_caller_gave_up_ends_as_cancelled(tmp_path: Path, collector: Collector) -> None:
    event = pb.Event(event_id="g", ts_ms=1_538_308_800_000, entities={"customer": "C", "terminal": "T"})
    event.numbers["amount"] = 3.0

    async def use(client: httpx.AsyncClient, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = decisions_pb2_grpc.DecisionsStub(channel)
            stream = stub.ScoreStream(metadata=tuple(parent(1).items()))
            await stream.write(pb.ScoreRequest(domain="payments", events=[event]))
            await stream.read()
            stream.cancel()
            # What comes behind on the connection is answered only once that has arrived.
            await stub.Score(pb.ScoreRequest(domain="payments", events=[event]))

    run(tmp_path, use)
    (call,) = (span for span in collector.of(f"{1:032x}") if span.kind == SERVER)
    assert call.attributes["rpc.response.status_code"] == "CANCELLED"


def test_a_share_of_the_roots_is_sampled_and_a_callers_decision_holds() -> None:
    share = tracing.Tracing(tracing.Plan((), 0.25, follows=True))
    begun = [share.begin("x", {}, "", "", 0.0) for _ in range(400)]
    assert 50 < sum(trace is not None for trace in begun) < 150
    # A sampler of the same share elsewhere, which looks at the id, would have sampled these as well.
    ids = [trace.span.get_span_context().trace_id for trace in begun if trace]
    assert all(each % (1 << 64) < 0.25 * (1 << 64) for each in ids)
    assert len(set(ids)) == len(ids)
    assert share.begin("x", {}, parent(1)["traceparent"], "", 0.0)
    assert not share.begin("x", {}, parent(1, "00")["traceparent"], "", 0.0)


def test_a_sampler_by_id_decides_by_the_id_of_the_caller() -> None:
    by_id = tracing.Tracing(tracing.Plan((), 0.5, follows=False))
    assert by_id.begin("x", {}, f"00-{1 << 62:032x}-{1:016x}-00", "", 0.0)
    assert not by_id.begin("x", {}, f"00-{3 << 62:032x}-{1:016x}-01", "", 0.0)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_without_an_exporter_there_is_no_tracing(environ: dict[str, str]) -> None:
    assert tracing.plan(environ) is None


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, r"no exporter 'zipkin' is installed.*vigil\[otel\]"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "no exporter 'otlp_proto_grpc'"),
        ({"OTEL_TRACES_SAMPLER": "often"}, "OTEL_TRACES_SAMPLER='often': wanted one of"),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"},
            "ARG='7': wanted a share",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tracing.plan({"OTEL_TRACES_EXPORTER": "otlp"} | environ)


def test_serving_without_an_exporter_leaves_calls_alone(tmp_path: Path, collector: Collector) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")

        async def use(client: httpx.AsyncClient, address: str) -> bool:
            await client.get("/v2", headers=parent(1))
            return tracing.tracing is None

        assert run(tmp_path, use)
    assert collector.spans == []
