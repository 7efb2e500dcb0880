"""What MLServer's own types, codecs and stubs get from a service; runs in the environment that `make clients` makes.

Arguments: HTTP address, gRPC address, a .npy file of feature rows. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.request import Request, urlopen

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.grpc import converters, dataplane_pb2
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RequestOutput,
)

MODEL = "payments"


def http(address: str, path: str, body: Any = None) -> bytes:
    data = None if body is None else body.model_dump_json().encode()
    answer: bytes = urlopen(Request(f"http://{address}/v2/{path}", data), timeout=30).read()
    return answer


def asked(rows: np.ndarray) -> InferenceRequest:
    tensor = NumpyCodec.encode_input("features", rows)
    return InferenceRequest(id="seven", inputs=[tensor], outputs=[RequestOutput(name="risk")])


def main(address: str, grpc_address: str, file: str) -> dict[str, Any]:
    rows = np.load(file)
    answers = [InferenceResponse.model_validate_json(http(address, f"models/{MODEL}/infer", asked(rows)))]
    with grpc.insecure_channel(grpc_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for raw in (True, False):
            message = converters.ModelInferRequestConverter.from_types(asked(rows), model_name=MODEL, use_raw=raw)
            answers.append(converters.ModelInferResponseConverter.to_types(stub.ModelInfer(message)))
        metadata = stub.ModelMetadata(dataplane_pb2.ModelMetadataRequest(name=MODEL))
    index = http(address, "repository/index", RepositoryIndexRequest(ready=True))
    return {
        "names": [MetadataModelResponse.model_validate_json(http(address, f"models/{MODEL}")).name, metadata.name],
        "states": [model.state for model in RepositoryIndexResponse.model_validate_json(index)],
        "ids": [answer.id for answer in answers],
        "risks": [NumpyCodec.decode_output(answer.outputs[0]).tolist() for answer in answers],
    }


print(json.dumps(main(*sys.argv[1:])))
