"""Who may call what: every route and RPC, held against one table."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from testbed import tiny_model
from testbed.served import LOCALHOST, ROOT, Served, free_port
from tests.serving.calls import call, payment, tensor
from vigil import domains
from vigil.access import keys
from vigil.access.identity import ANY, PUBLIC, SCOPES
from vigil.transports.grpc.answers import NEEDS
from vigil.transports.http.routes import PASSED_ON, Routes
from vigil.transports.proto import decisions_pb2, decisions_pb2_grpc

ROW = [[float(i) for i in range(len(domains.load("payments").features))]]
AT = "/v2/models/payments"
# What everyone who adds a route has to decide: who may call it. A body where it takes one.
HTTP: dict[tuple[str, str], tuple[str, object]] = {
    ("POST", "/v1/payments/score"): ("score", payment("a")),
    ("POST", "/v1/payments/feedback"): ("feedback", {"event_id": "a", "label": 1}),
    ("GET", "/v1/decisions/a"): ("read", None),
    ("GET", "/v2"): ("infer", None),
    ("GET", "/v2/health/live"): (PUBLIC, None),
    ("GET", "/v2/health/ready"): (PUBLIC, None),
    ("GET", "/v2/models/stats"): ("metrics", None),
    ("GET", AT): ("infer", None),
    ("GET", f"{AT}/ready"): ("infer", None),
    ("GET", f"{AT}/config"): ("infer", None),
    ("GET", f"{AT}/stats"): ("metrics", None),
    ("POST", f"{AT}/infer"): ("infer", tensor(ROW)),
    ("GET", f"{AT}/versions/0"): ("infer", None),
    ("GET", f"{AT}/versions/0/ready"): ("infer", None),
    ("GET", f"{AT}/versions/0/config"): ("infer", None),
    ("GET", f"{AT}/versions/0/stats"): ("metrics", None),
    ("POST", f"{AT}/versions/0/infer"): ("infer", tensor(ROW)),
    ("POST", "/v2/repository/index"): ("admin", {}),
    ("POST", "/v2/repository/models/payments/load"): ("admin", {}),
    ("POST", "/v2/repository/models/payments/unload"): ("admin", {}),
    ("GET", "/readyz"): (PUBLIC, None),
    ("GET", "/"): (ANY, None),
    ("GET", "/docs.json"): (ANY, None),
    ("GET", "/schema.json"): (ANY, None),
    ("GET", "/healthz"): (PUBLIC, None),
    ("GET", "/livez"): (PUBLIC, None),
    ("GET", "/metrics"): ("metrics", None),
    ("POST", "/predict"): ("infer", {"features": ROW}),
    ("GET", "/static_content/index.css"): (PUBLIC, None),
}
GRPC = {
    "Score": "score",
    "ScoreStream": "score",
    "Feedback": "feedback",
    "ServerLive": PUBLIC,
    "ServerReady": PUBLIC,
    "ServerMetadata": "infer",
    "ModelReady": "infer",
    "ModelMetadata": "infer",
    "ModelConfig": "infer",
    "ModelStatistics": "metrics",
    "ModelInfer": "infer",
    "ModelStreamInfer": "infer",
    "RepositoryIndex": "admin",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
    "ServerReflectionInfo": "read",
}


class Guarded(NamedTuple):
    served: Served
    keys: dict[str, str]
    path: Path


@pytest.fixture(scope="module", params=[("protocol", "native"), ("asgi", "grpcio")], ids=["hot", "plain"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A service that asks for keys, and a key of each scope."""
    folder = tmp_path_factory.mktemp("guarded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bento"))
        tiny_model.store(folder, domains.load("payments"))
    path = folder / "secret" / "keys.json"
    made = {scope: keys.create(path, scope, [scope])[1] for scope in SCOPES}
    environment = {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_KEYS_FILE": str(path),
        "VIGIL_HTTP_LANE": request.param[0],
        "VIGIL_GRPC_SERVER": request.param[1],
    }
    with Served(".", folder / "log", environment) as served:
        yield Guarded(served, made, path)


def test_the_table_names_every_route() -> None:
    class Nothing:
        domains = (domains.load("payments"),)

    class Engines:
        settings = gate = recorder = None
        domains = (domains.load("payments"),)

    routes = Routes(Engines())  # type: ignore[arg-type]
    filled = {"{event_id}": "a", "{domain}": "payments", "{model}": "payments", "{version}": "0"}
    there = set()
    for route in routes.table:
        path = route.template
        for parameter, value in filled.items():
            path = path.replace(parameter, value)
        assert HTTP[route.method, path][0] == route.scope
        there.add((route.method, path))
    assert {path: scope for (_, path), (scope, _) in HTTP.items() if path in PASSED_ON} == PASSED_ON
    assert {path for _, path in set(HTTP) - there} == {*PASSED_ON, "/static_content/index.css"}


def test_the_table_names_every_rpc() -> None:
    services = [
        decisions_pb2.DESCRIPTOR.services_by_name["Decisions"],
        service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    ]
    offered = {method.name for service in services for method in service.methods} - {
        "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
        "TraceSetting", "LogSettings",
    }  # fmt: skip
    assert offered == set(GRPC)
    assert GRPC == NEEDS


@pytest.mark.parametrize("how", ["Authorization", "X-API-Key"])
@pytest.mark.parametrize(("method", "path"), HTTP)
def test_each_route_takes_callers_with_its_scope_alone(guarded: Guarded, method: str, path: str, how: str) -> None:
    scope, body = HTTP[method, path]
    port = guarded.served.port
    for name, key in guarded.keys.items():
        header = {how: f"Bearer {key}" if how == "Authorization" else key}
        if name == "admin" and "/repository/models" in path:
            continue  # it works: tried below
        status = call(port, method, path, body, header | {"Content-Type": "application/json"}).status
        if scope in (name, ANY, PUBLIC):
            assert status in (200, 404), (name, status)
        else:
            assert status == 403, (name, status)
    for header in ({}, {how: ""}, {how: "Bearer nothing" if how == "Authorization" else "nothing"}):
        status = call(port, method, path, body, header | {"Content-Type": "application/json"}).status
        assert (status == 401) == (scope != PUBLIC), status


def test_a_refusal_says_how_to_call(guarded: Guarded) -> None:
    answer = call(guarded.served.port, "POST", "/v1/payments/score", payment("a"))
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error.startswith("no key: send one as `Authorization: Bearer ...` or `X-API-Key: ...`")
    answer = call(guarded.served.port, "POST", "/v1/payments/score", payment("a"), {"X-API-Key": guarded.keys["read"]})
    key = guarded.keys["read"].split("_")[1]
    assert answer.error == f"scope: this call needs score; the key {key} has read"


def ask(channel: grpc.Channel, name: str, metadata: Any) -> str:
    """The status that a call ends with."""
    decisions = decisions_pb2_grpc.DecisionsStub(channel)
    inference = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests: dict[str, tuple[Any, Any]] = {
        "Score": (decisions.Score, decisions_pb2.ScoreRequest(domain="payments")),
        "ScoreStream": (decisions.ScoreStream, iter([])),
        "Feedback": (decisions.Feedback, decisions_pb2.FeedbackRequest(domain="payments")),
        "ModelStreamInfer": (inference.ModelStreamInfer, iter([])),
        "ServerReflectionInfo": (
            reflection.ServerReflectionInfo,
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]),
        ),
    }
    if name in requests:
        method, request = requests[name]
    else:
        method = getattr(inference, name)
        request = getattr(service_pb2, f"{name}Request")(**({"name": "none"} if name.startswith("ModelR") else {}))
    try:
        answer = method(request, timeout=20, metadata=metadata)
        if hasattr(answer, "__next__"):
            list(answer)
    except grpc.RpcError as failure:
        return str(failure.code().name)
    return "OK"


@pytest.mark.parametrize("name", GRPC)
def test_each_rpc_takes_callers_with_its_scope_alone(guarded: Guarded, name: str) -> None:
    scope = GRPC[name]
    with grpc.insecure_channel(guarded.served.grpc_address) as channel:
        for holder, key in guarded.keys.items():
            for metadata in ([("authorization", f"Bearer {key}")], [("x-api-key", key)]):
                got = ask(channel, name, metadata)
                refused = got in ("PERMISSION_DENIED", "UNAUTHENTICATED")
                assert refused == (scope not in (holder, PUBLIC)), (holder, got)
        for metadata in ([], [("x-api-key", "nothing")], [("authorization", "Bearer nothing")], [("x-api-key", "")]):
            assert (ask(channel, name, metadata) == "UNAUTHENTICATED") == (scope != PUBLIC)


def test_health_needs_no_key(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.served.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status == 1


def test_a_stream_of_reflection_ends_with_its_key(guarded: Guarded) -> None:
    key, text = keys.create(guarded.path, "reader", ["read"])
    asked: queue.Queue[Any] = queue.Queue()
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(guarded.served.grpc_address) as channel:
        until_s = time.monotonic() + 30
        while ask(channel, "ServerReflectionInfo", [("x-api-key", text)]) != "OK":
            assert time.monotonic() < until_s
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(iter(asked.get, None), metadata=[("x-api-key", text)], timeout=60)
        asked.put(listing)
        assert next(answers).list_services_response.service
        keys.revoke(guarded.path, key.id)
        requests = iter(lambda: asked.put(listing), 0)
        with pytest.raises(grpc.RpcError) as refused:
            list(zip(requests, answers, strict=False))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        asked.put(None)


def test_keys_come_and_go_while_it_serves(guarded: Guarded) -> None:
    port = guarded.served.port
    key, text = keys.create(guarded.path, "till", ["score"])
    header = {"X-API-Key": text}
    until_s = time.monotonic() + 30
    while call(port, "POST", "/v1/payments/score", payment("new"), header).status != 200:
        assert time.monotonic() < until_s
    keys.revoke(guarded.path, key.id)
    until_s = time.monotonic() + 30
    while call(port, "POST", "/v1/payments/score", payment("old"), header).status != 401:
        assert time.monotonic() < until_s


def test_a_model_is_unloaded_by_who_may_and_readiness_tells(guarded: Guarded) -> None:
    port, header = guarded.served.port, {"X-API-Key": guarded.keys["admin"]}
    assert call(port, "POST", "/v2/repository/models/payments/unload", {}, header).status == 200
    assert call(port, "GET", "/readyz").status == call(port, "GET", "/readyz?degraded=true").status == 503
    assert call(port, "GET", "/readyz").error == "not ready"  # nothing of why, to those without a key
    assert call(port, "POST", "/v2/repository/models/payments/load", {}, header).status == 200
    assert call(port, "GET", "/readyz").status == 200


def test_control_calls_have_a_port_of_their_own(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        "VIGIL_DOMAINS": "payments",
        "VIGIL_STATE_DIR": str(tmp_path / "state"),
        "VIGIL_ADMIN_PORT": str(port),
        "BENTOML_HOME": str(tmp_path),
    }
    with Served(".", tmp_path / "log", environment, wanted=(503,)) as served:
        unload = "/v2/repository/models/payments/unload"
        there, here = call(served.port, "POST", unload, {}), call(port, "POST", unload, {})
        assert (there.status, here.status) == (404, 200)
        assert there.error.endswith(f"is answered on 127.0.0.1:{port} (VIGIL_ADMIN_PORT) alone")
        assert call(port, "POST", "/v1/payments/score", payment("a")).status == 200
        assert call(port, "POST", unload, {}, {"Host": "evil.example"}).status == 403
        with grpc.insecure_channel(served.grpc_address) as channel:
            assert ask(channel, "RepositoryModelUnload", []) == "PERMISSION_DENIED"
            assert ask(channel, "ServerLive", []) == "OK"
        assert served.stop() == 0


def test_pages_of_the_web_call_where_cors_lets_them(tmp_path: Path) -> None:
    """As it is configured for BentoML's own routes."""
    (tmp_path / "bentoml.yaml").write_text(
        """
services:
  vigil:
    http:
      cors:
        enabled: true
        access_control_allow_origins: ["https://app.example"]
        access_control_allow_methods: [GET, POST, OPTIONS]
        access_control_allow_headers: ["*"]
"""
    )
    environment = {
        "BENTOML_CONFIG": str(tmp_path / "bentoml.yaml"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_STATE_DIR": str(tmp_path / "state"),
        "VIGIL_GRPC_PORT": "0",
        "BENTOML_HOME": str(tmp_path),
    }
    score = "/v1/payments/score"
    with Served(".", tmp_path / "log", environment, wanted=(503,)) as served:
        for page, allowed in (("https://app.example", True), ("https://evil.example", False)):
            ask = {
                "Origin": page,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-api-key",
            }
            before = call(served.port, "OPTIONS", score, headers=ask)
            assert call(served.port, "OPTIONS", "/predict", headers=ask).status == (200 if allowed else 403)
            after = call(served.port, "POST", score, payment("page"), {"Origin": page})
            assert (before.status, after.status) == ((200, 200) if allowed else (403, 403))
            for answer in (before, after):
                assert (answer.headers.get("access-control-allow-origin") == page) == allowed


def serve(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "BENTOML_HOME": str(folder / "bento")}
    environment |= {"BENTOML_DO_NOT_TRACK": "True", "VIGIL_STATE_DIR": str(folder / "state"), "VIGIL_GRPC_PORT": "0"}
    command = [sys.executable, "-m", "bentoml", "serve", ".", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        (["--host", "0.0.0.0"], {}, "--host 0.0.0.0"),
        (["--host", "::"], {}, "--host ::"),
        ([], {"BENTOML_HOST": "0.0.0.0"}, "--host 0.0.0.0"),
        ([], {"VIGIL_GRPC_PORT": "1", "VIGIL_GRPC_HOST": "0.0.0.0"}, "VIGIL_GRPC_HOST 0.0.0.0"),
        (["--host", "0.0.0.0"], {"VIGIL_ACCESS": "local"}, "--host 0.0.0.0"),
    ],
)
def test_it_does_not_start_where_others_could_call_without_a_key(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], named: str
) -> None:
    with serve(tmp_path, "--port", str(free_port()), *arguments, **settings) as process:
        try:
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    assert f"{named}: others can call, and there are no keys; make one: `vigil keys create" in said
    assert "Traceback" not in said


def test_without_a_host_it_listens_to_this_machine_alone(tmp_path: Path) -> None:
    port = free_port()
    with serve(tmp_path, "--port", str(port)) as process:
        try:
            until_s = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"http://localhost:{port}/livez", timeout=5)
                    break
                except OSError:
                    assert time.monotonic() < until_s
                    time.sleep(0.1)
            elsewhere = socket.gethostbyname(socket.gethostname())
            if not elsewhere.startswith("127."):
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection((elsewhere, port), timeout=5)
            assert json.loads(urllib.request.urlopen(f"http://{LOCALHOST}:{port}/v2/health/live").read())["live"]
        finally:
            process.terminate()
            process.communicate(timeout=60)
