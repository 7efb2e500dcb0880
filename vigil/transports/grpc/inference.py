"""`inference.GRPCInferenceService`: the Open Inference Protocol v2 over gRPC, on Triton's published stubs."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from vigil.errors import InvalidInput, shown
from vigil.transports import oip
from vigil.transports.grpc.answers import aborts, answers, deadline_s
from vigil.transports.grpc.streams import Streams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vigil.scoring.session import Rows, Session
    from vigil.transports.worker import Worker

FINAL = "triton_final_response"


class InferenceService(rpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The calls of the protocol; those for shared memory, tracing and log settings are UNIMPLEMENTED.

    Args:
        worker: whose engines answer.
        streams: of the server.
    """

    full_name = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

    def __init__(self, worker: Worker, streams: Streams) -> None:
        self._worker, self._streams = worker, streams

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
    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """A model's configuration, as Triton writes it."""
        session = oip.model_of(self._worker.engine(request.name, "model"), request.version)
        return pb.ModelConfigResponse(config=oip.config(request.name, session))

    @answers
    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        """What the versions of one model, or of all, have done since they were loaded."""
        named = [self._worker.engine(request.name, "model")] if request.name else self._worker.engines.values()
        stats = [each for engine in named for each in oip.statistics(engine, request.version)]
        return pb.ModelStatisticsResponse(model_stats=stats)

    @answers
    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The versions in the store, with their state."""
        _check_repository(request)
        found = await asyncio.to_thread(oip.index, list(self._worker.engines.values()), request.ready)
        return pb.RepositoryIndexResponse(models=found)

    @answers
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Takes the store's present model, while requests go on."""
        _check_repository(request)
        oip.check_load(request.parameters)
        await self._worker.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    @answers
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Lets the rules tier answer from now on."""
        _check_repository(request)
        await self._worker.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    @answers
    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Feature rows to risks; the answer's tensor is raw."""
        return await self._infer(request, deadline_s(context))

    @aborts
    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802
        """As ModelInfer, an answer a request, in order; what is wrong with one is said in its answer."""
        until_s = deadline_s(context)

        async def answer(request: Any) -> Any:
            response = await self._infer(request, until_s)
            response.parameters[FINAL].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)

        await self._streams.in_order(requests, context, "ModelStreamInfer", answer, _failed)

    async def _infer(self, request: Any, until_s: float | None) -> Any:
        started_s = perf_counter()
        engine = self._worker.engine(request.model_name, "model")
        session = oip.model_of(engine, request.model_version)
        rows = _rows(session, request)
        if request.parameters and "timeout" in request.parameters:
            until_s = oip.deadline_s(_value(request.parameters["timeout"]), started_s, until_s)
        risks = await engine.infer(rows, session, until_s)
        response = pb.ModelInferResponse(model_name=request.model_name, model_version=session.version, id=request.id)
        response.outputs.add(name=session.output_name, datatype=oip.DATATYPE, shape=[len(risks), 1])
        response.raw_output_contents.append(risks.astype("<f4").tobytes())
        return response


def _failed(request: Any, code: str, message: str) -> Any:
    """An error in the place of an answer; model and id tell which."""
    known = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    known.parameters[FINAL].bool_param = True
    return pb.ModelStreamInferResponse(error_message=f"[{code}] {message}", infer_response=known)


def _value(parameter: Any) -> object:
    """What an InferParameter holds; None where it holds nothing."""
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise InvalidInput(f"repository_name: got {shown(request.repository_name)}, wanted none: there is one")


def _rows(session: Session, request: Any) -> Rows:
    oip.check_names(session, [tensor.name for tensor in request.inputs], [t.name for t in request.outputs])
    tensor, raw = request.inputs[0], request.raw_input_contents
    for where, part in (("input", tensor), *(("output", output) for output in request.outputs)):
        if part.parameters:
            oip.check_parameters(f"{where} {part.name!r}", part.parameters)
    given = [field.name for field, _ in tensor.contents.ListFields()] if tensor.HasField("contents") else []
    if raw:
        if len(raw) != 1:
            raise InvalidInput(f"raw_input_contents: got {len(raw)} parts, wanted one for each input (1)")
        if given:
            raise InvalidInput(f"input {tensor.name!r}: contents: got {', '.join(given)} and raw_input_contents")
        return oip.from_raw(session, tensor.datatype, tensor.shape, raw[0])
    values = tensor.contents.fp32_contents
    if tensor.datatype == oip.DATATYPE and given and given != ["fp32_contents"]:
        raise InvalidInput(f"input {tensor.name!r}: contents: got {', '.join(given)}, wanted fp32_contents")
    oip.check_tensor(session, tensor.datatype, tensor.shape, len(values))
    return np.array(values, np.float32).reshape(tensor.shape)
