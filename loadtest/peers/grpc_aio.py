"""A bare `grpc.aio` servicer of ModelInfer on uvloop: the least that a Python gRPC server does for a call."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import numpy as np
import uvloop
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.peers.model import Model


class Risks(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Raw tensor "features" [n, F] in, raw tensor "risk" [n, 1] out."""

    def __init__(self) -> None:
        self._model = Model()

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="risk", datatype="FP32", shape=[len(rows), 1])
        answer.raw_output_contents.append(self._model.risks(rows).tobytes())
        return answer


async def serve(port: int) -> None:
    """Until it is ended."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Risks(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(int(sys.argv[1])))
