"""`/v2` and `/predict` of a running service, by clients no one here wrote."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import bentoml
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from testbed.served import Served
from tests.serving.calls import call, payment, tensor
from tests.serving.conftest import MAX_BODY_BYTES
from vigil import domains

WIDTH = len(domains.load("payments").features)
INFER = "/v2/models/payments/infer"
ROWS = np.random.default_rng(5).normal(0, 30, (33, WIDTH)).astype(np.float32)


def infer(client: Any, rows: np.ndarray, binary: bool, **more: Any) -> np.ndarray:
    tensor = triton.InferInput("features", list(rows.shape), "FP32").set_data_from_numpy(rows, binary_data=binary)
    asked = [triton.InferRequestedOutput("risk", binary_data=binary)]
    risks: np.ndarray = client.infer("payments", [tensor], outputs=asked, **more).as_numpy("risk")
    return risks


@pytest.fixture
def client(each_served: Served) -> Any:
    with triton.InferenceServerClient(each_served.address) as opened:
        yield opened


def test_tritonclient_sees_a_live_ready_server_and_its_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("payments")
    server = client.get_server_metadata()
    assert server["name"] == "vigil"
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(server["extensions"])
    metadata = client.get_model_metadata("payments")
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, WIDTH]}]
    assert client.is_model_ready("payments", metadata["versions"][0])


def test_json_and_binary_tensors_and_bentomls_client_get_the_same_risks(each_served: Served, client: Any) -> None:
    risks = infer(client, ROWS, binary=True)
    assert risks.shape == (len(ROWS), 1)
    assert (infer(client, ROWS, binary=False) == risks).all()
    with bentoml.SyncHTTPClient(each_served.url) as plain:
        assert (np.asarray(plain.predict(features=ROWS), np.float32) == risks[:, 0]).all()


def test_tritonclient_infers_with_its_defaults(client: Any) -> None:
    tensor = triton.InferInput("features", [1, WIDTH], "FP32").set_data_from_numpy(ROWS[:1])
    assert client.infer("payments", [tensor]).as_numpy("risk").shape == (1, 1)


def test_a_row_gets_the_same_risk_alone_and_in_any_batch(client: Any) -> None:
    together = infer(client, ROWS, binary=True)
    assert (np.concatenate([infer(client, row[None], binary=True) for row in ROWS]) == together).all()


def test_an_event_gets_the_risk_of_its_features(each_served: Served) -> None:
    event = payment("skewless", customer="C-skew", amount=250.0)
    decision = call(each_served.port, "POST", "/v1/payments/score?features=true", event).json
    answer = call(each_served.port, "POST", INFER, tensor([list(decision["features"].values())])).json
    assert answer["outputs"][0]["data"] == [decision["risk"]]


def test_an_id_is_echoed_and_nested_data_is_taken(each_served: Served) -> None:
    body = tensor([[1.0] * WIDTH], data=[[1.0] * WIDTH]) | {"id": "seven"}
    answer = call(each_served.port, "POST", INFER, body).json
    assert answer["id"] == "seven"
    assert answer["outputs"][0]["shape"] == [1, 1]


def test_what_is_null_is_as_if_it_were_not_there(each_served: Served) -> None:
    plain = tensor([[1.0] * WIDTH])
    nulls = tensor([[1.0] * WIDTH], parameters=None) | {"id": None, "outputs": None, "parameters": None}
    assert call(each_served.port, "POST", INFER, nulls).json == call(each_served.port, "POST", INFER, plain).json
    assert call(each_served.port, "POST", "/v2/repository/index", {"ready": None}).status == 200


def test_the_body_may_say_once_more_what_the_path_says(each_served: Served, client: Any) -> None:
    version = client.get_model_metadata("payments")["versions"][0]
    plain = tensor([[1.0] * WIDTH])
    for more in ({"model_name": "payments"}, {"model_version": version}, {"model_name": "", "model_version": None}):
        assert (
            call(each_served.port, "POST", INFER, plain | more).json
            == call(each_served.port, "POST", INFER, plain).json
        )


def test_a_version_can_be_named(each_served: Served, client: Any) -> None:
    version = client.get_model_metadata("payments")["versions"][0]
    assert infer(client, ROWS[:1], binary=True, model_version=version).shape == (1, 1)
    with pytest.raises(InferenceServerException, match=f"no version 'nope' of model 'payments'; there are {version}"):
        infer(client, ROWS[:1], binary=True, model_version="nope")


def test_an_unknown_model_is_refused_with_those_there_are(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="no model 'nope'; there are payments"):
        client.get_model_metadata("nope")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"{", "body: "),
        (b'{"id":"\xff","inputs":[]}', "body: "),
        (b'{"\xe9":1}', "body: "),
        ({"inputs": []}, "inputs: got [], wanted one tensor named 'features'"),
        (tensor([[1.0] * WIDTH], name="x"), "inputs: got ['x'], wanted one tensor named 'features'"),
        (tensor([[1.0] * WIDTH], datatype="FP64"), "input 'features': datatype: got 'FP64', wanted FP32"),
        (tensor([[1.0] * 3]), f"input 'features': shape: got [1, 3], wanted [n, {WIDTH}] with n >= 1"),
        (tensor([[1.0] * WIDTH], shape=[0, WIDTH], data=[]), "input 'features': shape: got [0,"),
        (tensor([[1.0] * WIDTH], data=[1.0]), "input 'features': data: got 1 values, wanted"),
        (tensor([[1.0] * WIDTH], data=["1"] * WIDTH), "input 'features': data[0]: got '1', wanted a number"),
        (tensor([[1.0] * WIDTH], data=None), "input 'features': data: got none"),
        (tensor([[1e39] * WIDTH]), "features[0].amount: got inf, wanted a finite float32"),
        (tensor([[1.0] * WIDTH]) | {"outputs": [{"name": "y"}]}, "outputs: got 'y', wanted 'risk'"),
        (tensor([[1.0] * WIDTH]) | {"colour": 1}, "body: "),
        (tensor([[1.0] * WIDTH]) | {"model_name": "other"}, "model_name: got 'other', wanted 'payments' as asked for"),
        (tensor([[1.0] * WIDTH]) | {"model_version": "x"}, "model_version: got 'x', wanted '2"),
        (tensor([[1.0] * WIDTH], datatype="BYTES", data=["x"] * WIDTH), "input 'features': data[0]: got 'x'"),
        (tensor([[1.0] * WIDTH]) | {"parameters": {"timeout": -1}}, "parameters.timeout: got -1, wanted whole"),
        (tensor([[1.0] * WIDTH]) | {"parameters": {"timeout": 10**400}}, "parameters.timeout: got 1"),
        (tensor([[1.0] * WIDTH]) | {"parameters": {"timeout": True}}, "parameters.timeout: got True"),
        (
            tensor([[1.0] * WIDTH]) | {"parameters": {"binary_data_output": 1}},
            "parameters.binary_data_output: got 1, wanted true or false",
        ),
        (
            tensor([[1.0] * WIDTH]) | {"outputs": [{"name": "risk", "parameters": {"binary_data": "yes"}}]},
            "output 'risk': parameters.binary_data: got 'yes', wanted true or false",
        ),
        (
            tensor([[1.0] * WIDTH]) | {"outputs": [{"name": "risk", "parameters": {"classification": 1}}]},
            "output 'risk': parameters: got 'classification', which is not offered",
        ),
        (
            tensor([[1.0] * WIDTH], data=None, parameters={"shared_memory_region": "r"}),
            "input 'features': parameters: got 'shared_memory_region', which is not offered",
        ),
        (
            tensor([[1.0] * WIDTH], parameters={"binary_data_size": 0}),
            "input 'features': data: got numbers and binary_data_size, wanted one of them",
        ),
    ],
)
def test_a_tensor_that_cannot_be_is_refused_by_part_got_and_wanted(each_served: Served, body: Any, wanted: str) -> None:
    answer = call(each_served.port, "POST", INFER, body)
    assert (answer.status, answer.error[: len(wanted)]) == (400, wanted)


def test_binary_data_of_a_wrong_length_is_refused(each_served: Served) -> None:
    head = b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = call(each_served.port, "POST", INFER, head + b"1234", headers)
    assert (answer.status, answer.error) == (400, "input 'features': binary_data_size: got 8, wanted 4")
    for length in ("9999", "9" * 5000, "-1", "x"):
        answer = call(each_served.port, "POST", INFER, head, {"Inference-Header-Content-Length": length})
        assert (answer.status, answer.error[:31]) == (400, "inference-header-content-length")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_bytes_and_json_mix_freely(client: Any, binary_in: bool, binary_out: bool) -> None:
    tensor = triton.InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS, binary_data=binary_in)
    asked = [triton.InferRequestedOutput("risk", binary_data=binary_out)]
    answer = client.infer("payments", [tensor], outputs=asked)
    assert ("data" in answer.get_output("risk")) is not binary_out
    assert (answer.as_numpy("risk") == infer(client, ROWS, binary=True)).all()


def test_an_output_s_own_wish_counts_before_that_of_the_request(each_served: Served) -> None:
    wishes = [(True, None, True), (True, False, False), (False, True, True), (False, None, False)]
    for whole, own, binary in wishes:
        body = tensor([[1.0] * WIDTH]) | {"parameters": {"binary_data_output": whole}}
        if own is not None:
            body["outputs"] = [{"name": "risk", "parameters": {"binary_data": own}}]
        answer = call(each_served.port, "POST", INFER, body)
        assert ("inference-header-content-length" in answer.headers) is binary


def test_bytes_nobody_announced_are_refused(each_served: Served) -> None:
    head = json.dumps(tensor([[1.0] * WIDTH])).encode()
    answer = call(each_served.port, "POST", INFER, head + b"1234", {"Inference-Header-Content-Length": str(len(head))})
    assert (answer.status, answer.error) == (400, "input 'features': binary_data_size: got none, wanted 4")


def test_parameters_no_one_knows_are_ignored(client: Any) -> None:
    known = infer(client, ROWS[:1], binary=True)
    asked = {"priority": 3, "sequence_id": 7, "sequence_start": True, "timeout": 10_000_000}
    assert (infer(client, ROWS[:1], binary=True, **asked, parameters={"colour": "red"}) == known).all()


def test_a_request_that_is_already_late_is_answered_504_and_not_run(client: Any) -> None:
    def count() -> int:
        found: int = client.get_inference_statistics("payments")["model_stats"][0]["inference_count"]
        return found

    before = count()
    with pytest.raises(InferenceServerException, match=r"\[504\] deadline passed .* ms before"):
        infer(client, ROWS, binary=True, timeout=1)
    assert count() == before


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_gets_the_same_answer(client: Any, algorithm: str) -> None:
    plain = infer(client, ROWS, binary=True)
    assert (infer(client, ROWS, binary=True, request_compression_algorithm=algorithm) == plain).all()
    assert (infer(client, ROWS, binary=False, request_compression_algorithm=algorithm) == plain).all()
    assert (infer(client, ROWS, binary=True, response_compression_algorithm=algorithm) == plain).all()


@pytest.mark.parametrize(
    ("body", "encoding", "status", "wanted"),
    [
        (gzip.compress(b" " * 1_000_000, mtime=0), "gzip", 413, f"body: got more than {MAX_BODY_BYTES} bytes unpacked"),
        (gzip.compress(b"{}" * 100, mtime=0)[:-9], "gzip", 400, "body: got an end amid compressed data"),
        (b"{}", "gzip", 400, "body: Error -3 while decompressing data"),
        (b"{}", "br", 415, "content-encoding: got 'br', wanted gzip or deflate"),
    ],
)
def test_compression_that_cannot_be_is_refused(
    each_served: Served, body: bytes, encoding: str, status: int, wanted: str
) -> None:
    answer = call(each_served.port, "POST", INFER, body, {"Content-Encoding": encoding})
    assert (answer.status, answer.error[: len(wanted)]) == (status, wanted)


def test_asynchronous_requests_are_each_answered_with_their_own(each_served: Served) -> None:
    with triton.InferenceServerClient(each_served.address, concurrency=4) as client:
        tensors = [triton.InferInput("features", [1, WIDTH], "FP32").set_data_from_numpy(row[None]) for row in ROWS]
        waiting = [client.async_infer("payments", [t], request_id=str(i)) for i, t in enumerate(tensors)]
        answers = [each.get_result(timeout=30) for each in waiting]
        assert [answer.get_response()["id"] for answer in answers] == [str(i) for i in range(len(ROWS))]
        together = infer(client, ROWS, binary=True)
    assert (np.concatenate([answer.as_numpy("risk") for answer in answers]) == together).all()


def test_an_asyncio_client_sees_and_infers(each_served: Served) -> None:
    async def main() -> np.ndarray:
        async with aio.InferenceServerClient(each_served.address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("payments")
            assert (await client.get_model_metadata("payments"))["name"] == "payments"
            assert (await client.get_model_repository_index())[0]["state"] == "READY"
            tensor = triton.InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
            risks: np.ndarray = (await client.infer("payments", [tensor])).as_numpy("risk")
            return risks

    with triton.InferenceServerClient(each_served.address) as client:
        assert (asyncio.run(main()) == infer(client, ROWS, binary=True)).all()


def test_configuration_and_statistics_are_told(client: Any) -> None:
    configuration = client.get_model_config("payments")
    assert (configuration["name"], configuration["input"][0]["dims"]) == ("payments", [WIDTH])
    infer(client, ROWS, binary=True)
    of_one, of_all = client.get_inference_statistics("payments"), client.get_inference_statistics()
    assert of_one == of_all
    found = of_one["model_stats"][0]
    assert found["inference_stats"]["success"]["count"] >= 1
    assert {each["batch_size"] for each in found["batch_stats"]} >= {len(ROWS)}
    assert (
        sum(each["batch_size"] * each["compute_infer"]["count"] for each in found["batch_stats"])
        == (found["inference_count"])
    )


@pytest.mark.parametrize("features", [[[1.0, 2.0]], [["x"] * WIDTH], [[1e39] * WIDTH]])
def test_predict_refuses_rows_that_cannot_be(each_served: Served, features: Any) -> None:
    answer = call(each_served.port, "POST", "/predict", {"features": features}, {"Content-Type": "application/json"})
    assert answer.status == 400
    assert b"Traceback" not in answer.body


def test_predict_and_our_own_routes_are_on_the_openapi_page(each_served: Served) -> None:
    paths = call(each_served.port, "GET", "/docs.json").json["paths"]
    assert {"/predict", "/v1/payments/score", "/v2/models/payments/infer"} <= set(paths)


def test_metrics_of_vigil_and_bentoml_come_together(each_served: Served) -> None:
    call(each_served.port, "POST", "/v1/payments/score", payment("metered"))
    text = call(each_served.port, "GET", "/metrics").body.decode()
    assert 'vigil_requests_total{route="/v1/{domain}/score",status="200",transport="http"}' in text
    assert "vigil_model_info" in text
    assert "vigil_batch_rows_bucket" in text
