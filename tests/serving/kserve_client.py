"""What KServe's own client gets from a service; runs in the environment that `make clients` makes for it.

Arguments: HTTP address, gRPC address, a .npy file of feature rows. Prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

MODEL = "payments"


def asked(rows: np.ndarray, binary: bool) -> Any:
    tensor = InferInput("features", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(MODEL, [tensor], request_id="seven")


async def main(http: str, grpc: str, file: str) -> dict[str, Any]:
    rows, url = np.load(file), f"http://{http}"
    rest, rpc = InferenceRESTClient(RESTConfig(protocol="v2")), InferenceGRPCClient(grpc, use_ssl=False)
    answers = [await rest.infer(url, asked(rows, binary), model_name=MODEL) for binary in (True, False)]
    answers += [await rpc.infer(asked(rows, binary)) for binary in (True, False)]
    return {
        "rest": [
            await rest.is_server_live(url),
            await rest.is_server_ready(url),
            await rest.is_model_ready(url, MODEL),
        ],
        "grpc": [await rpc.is_server_live(), await rpc.is_server_ready(), await rpc.is_model_ready(MODEL)],
        "ids": [answer.id for answer in answers],
        "risks": [answer.outputs[0].as_numpy().tolist() for answer in answers],
    }


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
