"""Rate limits and the audit log, as callers and operators see them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from testbed import tiny_model
from testbed.served import ROOT, Served
from tests.serving.calls import call, payment, tensor
from tests.serving.wire import Wire, post, status
from vigil import domains
from vigil.access import keys
from vigil.transports.proto import decisions_pb2, decisions_pb2_grpc

SCORE, LOAD = "/v1/payments/score", "/v2/repository/models/payments/load"


class Limited(NamedTuple):
    served: Served
    folder: Path
    keys: dict[str, str]


@pytest.fixture(scope="module", params=[("protocol", "native"), ("asgi", "grpcio")], ids=["hot", "plain"])
def limited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """A service where each key may call 20 times at once and then once in 1,000 s, but for one that may at will."""
    folder = tmp_path_factory.mktemp("limited")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bento"))
        tiny_model.store(folder, domains.load("payments"))
    path = folder / "keys.json"
    scopes = ["score", "infer", "feedback"]
    made = {
        name: keys.create(path, name, scopes)[1]
        for name in ("one", "many", "rpc", "sevens", "flow", "rows", "tensors", "predicted")
    }
    made["free"] = keys.create(path, "free", [*scopes, "admin"], rate=0.0)[1]
    environment = {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_KEYS_FILE": str(path),
        "VIGIL_RATE_LIMIT": "0.001",
        "VIGIL_RATE_BURST": "20",
        "VIGIL_HTTP_LANE": request.param[0],
        "VIGIL_GRPC_SERVER": request.param[1],
    }
    with Served(".", folder / "log", environment) as served:
        yield Limited(served, folder, made)


def test_a_caller_beyond_its_limit_is_told_when_to_come_back_and_others_are_served(limited: Limited) -> None:
    port, header = limited.served.port, {"X-API-Key": limited.keys["one"]}
    answers = [call(port, "POST", SCORE, payment(f"one-{i}"), header) for i in range(25)]
    assert Counter(answer.status for answer in answers) == {200: 20, 429: 5}
    refused = answers[-1]
    assert int(refused.headers["retry-after"]) > 900
    assert refused.headers["ratelimit"].startswith('"caller";r=0')
    assert "ratelimit-policy" in refused.headers
    assert call(port, "POST", SCORE, payment("free"), {"X-API-Key": limited.keys["free"]}).status == 200
    assert call(port, "GET", "/readyz").status == 200


def test_events_of_an_array_count_each(limited: Limited) -> None:
    port, header = limited.served.port, {"X-API-Key": limited.keys["many"]}
    seven = [payment(f"many-{i}") for i in range(7)]
    assert [call(port, "POST", SCORE, seven, header).status for _ in range(4)] == [200, 200, 429, 429]
    header = {"X-API-Key": limited.keys["rows"]}
    labels = [{"event_id": f"many-{i}", "label": 0} for i in range(7)]
    assert call(port, "POST", "/v1/payments/feedback", labels, header).status == 200
    seven_rows = tensor([[0.0] * len(domains.load("payments").features)] * 7)
    found = [call(port, "POST", "/v2/models/payments/infer", seven_rows, header).status for _ in range(3)]
    assert found == [200, 429, 429]
    header = {"X-API-Key": limited.keys["predicted"]}
    rows = {"features": [[0.0] * len(domains.load("payments").features)] * 12}
    assert [call(port, "POST", "/predict", rows, header).status for _ in range(3)] == [200, 429, 429]


def test_a_body_of_many_levels_is_refused_in_a_line(limited: Limited) -> None:
    deep = b'{"features": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    with Wire(limited.served.port) as wire:
        wire.send(post("/predict", deep, f"x-api-key: {limited.keys['free']}", "content-type: application/json"))
        answer = wire.answer()
    assert status(answer) == 400
    assert b"too many levels" in answer


def test_the_same_holds_over_grpc(limited: Limited) -> None:
    found = Counter[str]()
    event = decisions_pb2.Event(event_id="rpc", ts_ms=1_538_308_800_000, entities={"customer": "c", "terminal": "t"})
    event.numbers["amount"] = 31.5
    with grpc.insecure_channel(limited.served.grpc_address) as channel:
        stub = decisions_pb2_grpc.DecisionsStub(channel)
        for _ in range(23):
            try:
                asked = decisions_pb2.ScoreRequest(domain="payments", events=[event])
                stub.Score(asked, timeout=20, metadata=[("x-api-key", limited.keys["rpc"])])
                found["OK"] += 1
            except grpc.RpcError as failure:
                told = "try again in" in failure.details()
                found[f"{failure.code().name}, {told}"] += 1
    assert found == {"OK": 20, "RESOURCE_EXHAUSTED, True": 3}


def test_events_of_a_call_and_messages_of_a_stream_count_each(limited: Limited) -> None:
    event = decisions_pb2.Event(event_id="rpc", ts_ms=1_538_308_800_000, entities={"customer": "c", "terminal": "t"})
    event.numbers["amount"] = 31.5
    seven = decisions_pb2.ScoreRequest(domain="payments", events=[event] * 7)
    with grpc.insecure_channel(limited.served.grpc_address) as channel:
        stub = decisions_pb2_grpc.DecisionsStub(channel)
        metadata = [("x-api-key", limited.keys["sevens"])]
        for _ in range(2):
            assert len(stub.Score(seven, timeout=20, metadata=metadata).decisions) == 7
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            stub.Score(seven, timeout=20, metadata=metadata)
        one = decisions_pb2.ScoreRequest(domain="payments", events=[event])
        answers = stub.ScoreStream(iter([one] * 30), timeout=20, metadata=[("x-api-key", limited.keys["flow"])])
        codes = [answer.error.code for answer in answers]
        # Opening the stream is a call, too.
        assert codes == [""] * 19 + ["RESOURCE_EXHAUSTED"] * 11


def test_labels_and_rows_of_grpc_count_each(limited: Limited) -> None:
    labels = decisions_pb2.FeedbackRequest(domain="payments")
    for i in range(7):
        labels.labels.add(event_id=f"l-{i}", label=0)
    width = len(domains.load("payments").features)
    rows = service_pb2.ModelInferRequest(model_name="payments", raw_input_contents=[bytes(4 * 7 * width)])
    rows.inputs.add(name="features", datatype="FP32", shape=[7, width])
    metadata = [("x-api-key", limited.keys["tensors"])]
    with grpc.insecure_channel(limited.served.grpc_address) as channel:
        decisions, inference = (
            decisions_pb2_grpc.DecisionsStub(channel),
            service_pb2_grpc.GRPCInferenceServiceStub(channel),
        )
        decisions.Feedback(labels, timeout=20, metadata=metadata)
        inference.ModelInfer(rows, timeout=20, metadata=metadata)
        for method, request in ((inference.ModelInfer, rows), (decisions.Feedback, labels)):
            with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
                method(request, timeout=20, metadata=metadata)
        answers = inference.ModelStreamInfer(iter([rows]), timeout=20, metadata=metadata)
        assert [answer.error_message[:20] for answer in answers] == ["[RESOURCE_EXHAUSTED]"]


def test_who_changed_what_is_on_record(limited: Limited) -> None:
    port, key = limited.served.port, limited.keys["free"]
    header = {"X-API-Key": key}
    assert call(port, "POST", LOAD, {}, header).status == 200
    forged = header | {"X-Forwarded-For": "203.0.113.7"}
    assert call(port, "POST", "/v1/payments/feedback", {"event_id": "free", "label": 1}, forged).status == 200
    assert call(port, "POST", LOAD, {}, {"X-API-Key": "nothing"}).status == 401
    environment = os.environ | {
        "VIGIL_STATE_DIR": str(limited.folder / "state"),
        "VIGIL_KEYS_FILE": str(limited.folder / "keys.json"),
        "COLUMNS": "400",
    }

    def vigil(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vigil.cli", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    made = vigil("keys", "create", "late", "--scopes", "score")
    assert made.returncode == 0
    until_s = time.monotonic() + 10
    who = key.split("_")[1]
    wanted = [
        rf'"{who}".*/v2/repository/models/payments/load.*"200"',
        rf'"{who}".*feedback.*"127\.0\.0\.1".*"200"',
        r'"unknown".*"refused".*"admin".*the key is none that is known',
        r'"local user".*"keys create".*late: score',
    ]
    while not all(re.search(each, shown := vigil("audit", "show").stdout) for each in wanted):
        assert time.monotonic() < until_s, shown
    assert key not in shown
    checked = vigil("audit", "verify")
    assert (checked.returncode, "whole" in checked.stdout) == (0, True), checked
