"""A running service and the clients of other projects, each as its makers ship it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import bentoml
import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from testbed.served import Served
from tests.conftest import CLIENTS, part
from tests.serving.calls import call, payment
from vigil import domains

WIDTH = len(domains.load("payments").features)
ROWS = np.random.default_rng(9).normal(0, 30, (5, WIDTH)).astype(np.float32)
AIO = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture
def risks(grpc_client: Any) -> Any:
    """Of ROWS, float32 [n, 1]."""
    tensor = tritonclient.grpc.InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
    return grpc_client.infer("payments", [tensor]).as_numpy("risk")


def elsewhere(name: str, served: Served, folder: Path) -> Any:
    """What the script of that client prints, run by the client's own environment."""
    np.save(folder / "rows.npy", ROWS)
    python = part(CLIENTS / name / "bin" / "python", "make clients")
    script = Path(__file__).with_name(f"{name}_client.py")
    command = [python, str(script), served.address, served.grpc_address, str(folder / "rows.npy")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_kserves_client_gets_the_same_risks_over_rest_and_grpc(served: Served, tmp_path: Path, risks: Any) -> None:
    got = elsewhere("kserve", served, tmp_path)
    assert (got["rest"], got["grpc"], got["ids"]) == ([True] * 3, [True] * 3, ["seven"] * 4)
    for each in got["risks"]:
        assert (np.array(each, np.float32).reshape(-1, 1) == risks).all()


def test_mlservers_types_codecs_and_stubs_fit(served: Served, tmp_path: Path, risks: Any) -> None:
    got = elsewhere("mlserver", served, tmp_path)
    assert (got["names"], got["states"], got["ids"]) == (["payments"] * 2, ["READY"], ["seven"] * 3)
    for each in got["risks"]:
        assert (np.array(each, np.float32).reshape(-1, 1) == risks).all()


def test_bentomls_clients_get_the_same_risks(served: Served, risks: Any) -> None:
    async def main() -> list[Any]:
        async with bentoml.AsyncHTTPClient(served.url) as client:
            return await asyncio.gather(*(client.predict(features=ROWS) for _ in range(4)))

    with bentoml.SyncHTTPClient(served.url) as client:
        assert client.is_ready()
        assert (np.asarray(client.predict(features=ROWS), np.float32) == risks[:, 0]).all()
    for answer in asyncio.run(main()):
        assert (np.asarray(answer, np.float32) == risks[:, 0]).all()


@pytest.mark.parametrize("protocol", list(AIO))
def test_tritons_asyncio_clients_do_all_that_is_offered(served: Served, protocol: str, risks: Any) -> None:
    kind, address = AIO[protocol], {"http": served.address, "grpc": served.grpc_address}[protocol]

    async def main() -> list[Any]:
        async with kind.aio.InferenceServerClient(address) as client:
            await client.load_model("payments")
            assert await client.is_model_ready("payments")
            assert await client.get_server_metadata()
            assert await client.get_model_config("payments")
            assert await client.get_inference_statistics("payments")
            tensor = kind.InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
            outputs = [kind.InferRequestedOutput("risk")]
            asked = (client.infer("payments", [tensor], outputs=outputs, request_id=str(i)) for i in range(20))
            return await asyncio.gather(*asked)

    answers = asyncio.run(main())
    responses = [answer.get_response() for answer in answers]
    assert [each["id"] if protocol == "http" else each.id for each in responses] == [str(i) for i in range(20)]
    assert all((answer.as_numpy("risk") == risks).all() for answer in answers)


def test_a_client_that_knows_nothing_but_reflection_calls_both_services(
    each_served: Served, channel: grpc.Channel, risks: Any
) -> None:
    """As grpcurl does: services, methods and messages all come from the server."""
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    assert {"inference.GRPCInferenceService", "vigil.v1.Decisions", "grpc.health.v1.Health"} <= set(
        database.get_services()
    )

    def ask(service: str, method: str, **fields: Any) -> Any:
        found = pool.FindServiceByName(service).methods_by_name[method]
        asked, answered = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
        call_ = channel.unary_unary(f"/{service}/{method}", asked.SerializeToString, answered.FromString)
        return call_(asked(**fields), timeout=30)

    tensor = {"name": "features", "datatype": "FP32", "shape": ROWS.shape}
    tensor["contents"] = {"fp32_contents": ROWS.ravel().tolist()}
    answer = ask("inference.GRPCInferenceService", "ModelInfer", model_name="payments", inputs=[tensor])
    assert answer.raw_output_contents[0] == risks.tobytes()
    event = {"event_id": "reflected", "ts_ms": 1_538_308_800_000, "numbers": {"amount": 31.5}}
    event["entities"] = {"customer": "C1", "terminal": "T1"}
    decision = ask("vigil.v1.Decisions", "Score", domain="payments", events=[event]).decisions[0]
    again = call(each_served.port, "POST", "/v1/payments/score", payment("reflected", ts=1_538_308_800_000)).json
    assert (decision.risk, decision.action) == (again["risk"], again["action"])
