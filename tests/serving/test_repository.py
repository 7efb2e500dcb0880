"""Models loaded and unloaded while a service runs, by clients no one here wrote."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

import model_store
from testbed import tiny_model
from testbed.served import Served
from tests.serving.calls import call, payment
from vigil import domains

PAYMENTS = domains.load("payments")
ROWS = np.random.default_rng(7).normal(0, 30, (5, len(PAYMENTS.features))).astype(np.float32)
CLIENTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


class Stored(NamedTuple):
    """A service and the versions of its model in the store."""

    service: Served
    versions: tuple[str, str]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    folder = tmp_path_factory.mktemp("repository")
    environment = {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_DOMAINS": "payments",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
        first, second = (tiny_model.store(folder, PAYMENTS, seed).split(":")[1] for seed in (0, 1))
        with Served(".", folder / "log", environment) as service:
            yield Stored(service, (first, second))


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest, stored: Stored) -> Iterator[Any]:
    """A client of either protocol; the second version is the champion, and loaded."""
    address = {"http": stored.service.address, "grpc": stored.service.grpc_address}[request.param]
    with CLIENTS[request.param].InferenceServerClient(address) as opened:
        model_store.set_alias("payments", "champion", stored.versions[1])
        opened.load_model("payments")
        yield opened


def infer(client: Any) -> tuple[str, bytes]:
    """The version that answered, and the risks' bytes."""
    kind = CLIENTS["http" if isinstance(client, tritonclient.http.InferenceServerClient) else "grpc"]
    tensor = kind.InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
    answer = client.infer("payments", [tensor])
    response = answer.get_response()
    version = response["model_version"] if isinstance(response, dict) else response.model_version
    return version, answer.as_numpy("risk").tobytes()


def index(client: Any) -> list[tuple[str, str, str]]:
    found = client.get_model_repository_index()
    if not isinstance(found, list):
        found = [{"name": each.name, "version": each.version, "state": each.state} for each in found.models]
    return [(each["name"], each["version"], each["state"]) for each in found]


def test_the_index_shows_every_stored_version_and_which_answers(stored: Stored, client: Any) -> None:
    states = dict(zip(stored.versions, ("UNAVAILABLE", "READY"), strict=True))
    assert index(client) == [("payments", version, states[version]) for version in sorted(states)]


def test_the_index_can_be_kept_to_what_answers(stored: Stored, client: Any) -> None:
    with grpc.insecure_channel(stored.service.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        models = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True)).models
    assert [(each.name, each.version, each.state) for each in models] == [("payments", stored.versions[1], "READY")]
    ready = call(stored.service.port, "POST", "/v2/repository/index", {"ready": True}).json
    assert ready == [{"name": "payments", "version": stored.versions[1], "state": "READY", "reason": ""}]
    client.unload_model("payments")
    assert call(stored.service.port, "POST", "/v2/repository/index", {"ready": True}).json == []


def test_a_load_takes_what_the_store_calls_champion(stored: Stored, client: Any) -> None:
    seen = {}
    for version in stored.versions:
        model_store.set_alias("payments", "champion", version)
        client.load_model("payments")
        answered, seen[version] = infer(client)
        assert answered == version
        assert client.is_model_ready("payments", version)
    assert len(set(seen.values())) == 2


def test_requests_go_on_while_models_are_swapped(stored: Stored, client: Any) -> None:
    address, swapping, answers, failures = stored.service.address, threading.Event(), [], []

    def ask() -> None:
        with tritonclient.http.InferenceServerClient(address) as other:
            while not swapping.is_set():
                try:
                    answers.append(infer(other))
                except InferenceServerException as failure:
                    failures.append(failure)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    for version in stored.versions * 4:
        model_store.set_alias("payments", "champion", version)
        client.load_model("payments")
    swapping.set()
    for thread in asking:
        thread.join(30)
    assert not failures
    # Each version has one answer: the one that is named is the one that ran.
    assert {version for version, _ in answers} == set(stored.versions)
    assert len(set(answers)) == 2


def test_an_unloaded_model_leaves_the_rules_tier_and_everyone_is_told(stored: Stored, client: Any) -> None:
    port = stored.service.port
    with grpc.insecure_channel(stored.service.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def serving() -> list[bool]:
            names = ("", "inference.GRPCInferenceService", "payments", "vigil.v1.Decisions")
            asked = (health.Check(health_pb2.HealthCheckRequest(service=name)).status for name in names)
            return [status == health_pb2.HealthCheckResponse.SERVING for status in asked]

        assert serving() == [True, True, True, True]
        client.unload_model("payments", unload_dependents=True)
        assert serving() == [False, False, False, True]
        assert not client.is_model_ready("payments")
        assert not client.is_server_ready()
        assert "'payments' was unloaded" in call(port, "GET", "/readyz").error
        assert call(port, "POST", "/v1/payments/score", payment("unloaded")).json["tier"] == "rules"
        assert {state for _, _, state in index(client)} == {"UNAVAILABLE"}
        with pytest.raises(InferenceServerException, match="'payments' was unloaded"):
            infer(client)
        client.load_model("payments")
        assert serving() == [True, True, True, True]
    assert client.is_model_ready("payments")
    assert call(port, "POST", "/v1/payments/score", payment("loaded")).json["tier"] == "full"


def test_a_model_that_was_changed_is_not_taken_and_the_present_one_goes_on(stored: Stored, client: Any) -> None:
    present = infer(client)
    changed = model_store.resolve("payments", stored.versions[0])
    original = changed.onnx_path.read_bytes()
    model_store.set_alias("payments", "champion", stored.versions[0])
    try:
        changed.onnx_path.write_bytes(original + b"\0")
        with pytest.raises(InferenceServerException, match=changed.manifest.digest):
            client.load_model("payments")
    finally:
        changed.onnx_path.write_bytes(original)
    assert infer(client) == present
    assert client.is_model_ready("payments", stored.versions[1])


def test_what_cannot_be_loaded_is_refused(client: Any) -> None:
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="no model 'nope'; there are payments"):
            change("nope")
    with pytest.raises(InferenceServerException, match="got 'config', wanted none: the model store says"):
        client.load_model("payments", config="{}")


@pytest.mark.parametrize("path", ["index", "models/payments/load", "models/payments/unload"])
@pytest.mark.parametrize("body", [b"{", b"[]", b'{"colour":1}', b'{"\xff":1}'])
def test_a_body_that_cannot_be_is_refused(stored: Stored, path: str, body: bytes) -> None:
    answer = call(stored.service.port, "POST", f"/v2/repository/{path}", body)
    assert (answer.status, answer.error[:6]) == (400, "body: ")


def test_statistics_are_kept_for_each_version(stored: Stored, client: Any) -> None:
    def count(version: str = "") -> dict[str, int]:
        found = client.get_inference_statistics("payments", version)
        if not isinstance(found, dict):
            return {each.version: each.inference_count for each in found.model_stats}
        return {each["version"]: each["inference_count"] for each in found["model_stats"]}

    before = count()
    infer(client)
    assert count()[stored.versions[1]] == before[stored.versions[1]] + len(ROWS)
    assert set(count(stored.versions[1])) == {stored.versions[1]}
    with pytest.raises(InferenceServerException, match="no statistics of version 'nope'"):
        count("nope")
