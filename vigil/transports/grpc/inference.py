"""`inference.GRPCInferenceService`: the Open Inference Protocol v2 over gRPC, on Triton's published stubs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from vigil.errors import InvalidInput
from vigil.transports import oip
from vigil.transports.grpc.answers import answers

if TYPE_CHECKING:
    from vigil.scoring.session import Rows, Session
    from vigil.transports.worker import Worker


class InferenceService(rpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The calls of the protocol that a server of fixed models has.

    Args:
        worker: whose engines answer.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @answers
    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers while the process runs."""
        return pb.ServerLiveResponse(live=True)

    @answers
    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether models are loaded and warmed."""
        return pb.ServerReadyResponse(ready=not self._worker.not_ready())

    @answers
    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Who answers."""
        return pb.ServerMetadataResponse(**oip.SERVER)

    @answers
    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether the model answers; NOT_FOUND for one there is not."""
        engine = self._worker.engine(request.name, "model")
        if engine.session is None:
            return pb.ModelReadyResponse(ready=False)
        oip.model_of(engine, request.version)
        return pb.ModelReadyResponse(ready=True)

    @answers
    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """A model's versions and tensors."""
        session = oip.model_of(self._worker.engine(request.name, "model"), request.version)
        return pb.ModelMetadataResponse(**oip.metadata(request.name, session))

    @answers
    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Feature rows to risks; the answer's tensor is raw."""
        engine = self._worker.engine(request.model_name, "model")
        session = oip.model_of(engine, request.model_version)
        risks = await engine.infer(_rows(session, request))
        response = pb.ModelInferResponse(model_name=request.model_name, model_version=session.version, id=request.id)
        response.outputs.add(name=session.output_name, datatype=oip.DATATYPE, shape=[len(risks), 1])
        response.raw_output_contents.append(risks.astype("<f4").tobytes())
        return response


def _rows(session: Session, request: Any) -> Rows:
    oip.check_names(session, [tensor.name for tensor in request.inputs], [t.name for t in request.outputs])
    tensor, raw = request.inputs[0], request.raw_input_contents
    if raw:
        if len(raw) != 1:
            raise InvalidInput(f"raw_input_contents: got {len(raw)} parts, wanted one for each input (1)")
        return oip.from_raw(session, tensor.datatype, tensor.shape, raw[0])
    values = tensor.contents.fp32_contents
    oip.check_tensor(session, tensor.datatype, tensor.shape, len(values))
    return np.array(values, np.float32).reshape(tensor.shape)
