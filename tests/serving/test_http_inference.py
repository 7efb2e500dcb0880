"""`/v2` and `/predict` of a running service, by clients no one here wrote."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from loadtest.served import Served
from tests.serving.calls import call, payment, tensor
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
def client(served: Served) -> Any:
    with triton.InferenceServerClient(served.address) as opened:
        yield opened


def test_tritonclient_sees_a_live_ready_server_and_its_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("payments")
    assert client.get_server_metadata()["name"] == "vigil"
    metadata = client.get_model_metadata("payments")
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, WIDTH]}]
    assert client.is_model_ready("payments", metadata["versions"][0])


def test_json_and_binary_tensors_and_bentomls_client_get_the_same_risks(served: Served, client: Any) -> None:
    risks = infer(client, ROWS, binary=True)
    assert risks.shape == (len(ROWS), 1)
    assert (infer(client, ROWS, binary=False) == risks).all()
    with bentoml.SyncHTTPClient(served.url) as plain:
        assert (np.asarray(plain.predict(features=ROWS), np.float32) == risks[:, 0]).all()


def test_tritonclient_infers_with_its_defaults(client: Any) -> None:
    tensor = triton.InferInput("features", [1, WIDTH], "FP32").set_data_from_numpy(ROWS[:1])
    assert client.infer("payments", [tensor]).as_numpy("risk").shape == (1, 1)


def test_a_row_gets_the_same_risk_alone_and_in_any_batch(client: Any) -> None:
    together = infer(client, ROWS, binary=True)
    assert (np.concatenate([infer(client, row[None], binary=True) for row in ROWS]) == together).all()


def test_an_event_gets_the_risk_of_its_features(served: Served) -> None:
    event = payment("skewless", customer="C-skew", amount=250.0)
    decision = call(served.port, "POST", "/v1/payments/score?features=true", event).json
    answer = call(served.port, "POST", INFER, tensor([list(decision["features"].values())])).json
    assert answer["outputs"][0]["data"] == [decision["risk"]]


def test_an_id_is_echoed_and_nested_data_is_taken(served: Served) -> None:
    body = tensor([[1.0] * WIDTH], data=[[1.0] * WIDTH]) | {"id": "seven"}
    answer = call(served.port, "POST", INFER, body).json
    assert answer["id"] == "seven"
    assert answer["outputs"][0]["shape"] == [1, 1]


def test_a_version_can_be_named(served: Served, client: Any) -> None:
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
    ],
)
def test_a_tensor_that_cannot_be_is_refused_by_part_got_and_wanted(served: Served, body: Any, wanted: str) -> None:
    answer = call(served.port, "POST", INFER, body)
    assert (answer.status, answer.error[: len(wanted)]) == (400, wanted)


def test_binary_data_of_a_wrong_length_is_refused(served: Served) -> None:
    head = b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = call(served.port, "POST", INFER, head + b"1234", headers)
    assert (answer.status, answer.error) == (400, "input 'features': binary_data_size: got 8, wanted 4")
    answer = call(served.port, "POST", INFER, head, {"Inference-Header-Content-Length": "9999"})
    assert (answer.status, answer.error[:31]) == (400, "inference-header-content-length")


@pytest.mark.parametrize("features", [[[1.0, 2.0]], [["x"] * WIDTH], [[1e39] * WIDTH]])
def test_predict_refuses_rows_that_cannot_be(served: Served, features: Any) -> None:
    answer = call(served.port, "POST", "/predict", {"features": features}, {"Content-Type": "application/json"})
    assert answer.status == 400
    assert b"Traceback" not in answer.body


def test_predict_and_our_own_routes_are_on_the_openapi_page(served: Served) -> None:
    paths = call(served.port, "GET", "/docs.json").json["paths"]
    assert {"/predict", "/v1/payments/score", "/v2/models/payments/infer"} <= set(paths)


def test_metrics_of_vigil_and_bentoml_come_together(served: Served) -> None:
    call(served.port, "POST", "/v1/payments/score", payment("metered"))
    text = call(served.port, "GET", "/metrics").body.decode()
    assert 'vigil_requests_total{route="/v1/{domain}/score",status="200",transport="http"}' in text
    assert "vigil_model_info" in text
    assert "vigil_batch_rows_bucket" in text
