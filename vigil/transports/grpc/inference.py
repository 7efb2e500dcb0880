"""`inference.GRPCInferenceService`: the Open Inference Protocol v2 over gRPC, on Triton's published stubs."""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from vigil.errors import InvalidInput, quote
from vigil.scoring.caller import Caller, Then
from vigil.transports import oip
from vigil.transports.grpc.answers import aborts, admitted, answers, charge, checked, deadline_s
from vigil.transports.grpc.streams import Streams

if TYPE_CHECKING:
    from vigil.scoring.session import Rows, Session
    from vigil.transports.engines import Engines

FINAL = "triton_final_response"


class InferenceService(rpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The calls of the protocol; those for shared memory, tracing and log settings are UNIMPLEMENTED.

    Args:
        engines: which answer.
        streams: of the server.
    """

    full_name = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

    def __init__(self, engines: Engines, streams: Streams) -> None:
        self._engines, self._streams, self.gate = engines, streams, engines.gate

    @answers
    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers while the process runs."""
        return pb.ServerLiveResponse(live=True)

    @answers
    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether models are loaded and warmed."""
        return pb.ServerReadyResponse(ready=not self._engines.not_ready())

    @answers
    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Who answers."""
        return pb.ServerMetadataResponse(**oip.SERVER)

    @answers
    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether the model answers; NOT_FOUND for one there is not."""
        engine = self._engines.get(request.name, "model")
        if engine.model.session is None:
            return pb.ModelReadyResponse(ready=False)
        oip.model_of(engine, request.version)
        return pb.ModelReadyResponse(ready=True)

    @answers
    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """A model's versions and tensors."""
        session = oip.model_of(self._engines.get(request.name, "model"), request.version)
        return pb.ModelMetadataResponse(**oip.metadata(request.name, session))

    @answers
    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """A model's configuration, as Triton writes it."""
        session = oip.model_of(self._engines.get(request.name, "model"), request.version)
        return pb.ModelConfigResponse(config=oip.config(request.name, session))

    @answers
    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        """What the versions of one model, or of all, have done since they were loaded."""
        named = [self._engines.get(request.name, "model")] if request.name else self._engines.by_name.values()
        stats = [each for engine in named for each in oip.statistics(engine, request.version)]
        return pb.ModelStatisticsResponse(model_stats=stats)

    @answers
    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The versions in the store, with their state."""
        _check_repository(request)
        found = await asyncio.to_thread(oip.index, list(self._engines.by_name.values()), request.ready)
        return pb.RepositoryIndexResponse(models=found)

    @answers
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Takes the store's present model, while requests go on."""
        _check_repository(request)
        oip.check_load(request.parameters)
        await self._engines.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    @answers
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Lets the rules tier answer from now on."""
        _check_repository(request)
        await self._engines.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    @answers
    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Feature rows to risks; the answer's tensor is raw."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.begin(request, deadline_s(context), future)
        return await future

    @aborts
    async def ModelStreamInfer(self, requests: Any, context: Any) -> None:  # noqa: N802
        """As ModelInfer, an answer a request, in order; what is wrong with one is said in its answer."""
        until_s = deadline_s(context)

        def begin(request: Any, caller: Caller[Any]) -> None:
            identity = admitted(self.gate, "ModelStreamInfer", context)  # a key may be revoked meanwhile
            charge(self.gate, identity, checked(request))
            self.begin(checked(request), until_s, Then(caller, _last))

        await self._streams.in_order(context, "ModelStreamInfer", begin, _failed)

    def begin(self, request: Any, until_s: float | None, caller: Caller[Any]) -> None:
        """Lets `caller` have the response to a ModelInferRequest.

        Args:
            request: as decoded.
            until_s: when the caller gives up, of `time.perf_counter`; None: never.
            caller: gets the ModelInferResponse.

        Raises:
            VigilError: what is wrong with the request at the first look.
        """
        started_s = perf_counter()
        engine = self._engines.get(request.model_name, "model")
        session = oip.model_of(engine, request.model_version)
        rows = _rows(session, request)
        if request.parameters and "timeout" in request.parameters:
            until_s = oip.deadline_s(_value(request.parameters["timeout"]), started_s, until_s)
        engine.model.submit(rows, Then(caller, partial(_response, session, request)), session, until_s)


@lru_cache(maxsize=256)
def _head(name: str, version: str, output: str, rows: int) -> bytes:
    """What answers of as many rows begin with: reading it is faster than writing it field by field."""
    head = pb.ModelInferResponse(model_name=name, model_version=version)
    head.outputs.add(name=output, datatype=oip.DATATYPE, shape=[rows, 1])
    encoded: bytes = head.SerializeToString()
    return encoded


def _response(session: Session, request: Any, risks: Rows) -> Any:
    head = _head(request.model_name, session.version, session.output_name, len(risks))
    response = pb.ModelInferResponse.FromString(head)
    response.id = request.id
    response.raw_output_contents.append(risks.astype("<f4", copy=False).tobytes())
    return response


def _last(response: Any) -> Any:
    response.parameters[FINAL].bool_param = True
    return pb.ModelStreamInferResponse(infer_response=response)


def _failed(request: Any, code: str, message: str) -> Any:
    """An error in the place of an answer; model and id tell which."""
    known = pb.ModelInferResponse()
    if isinstance(request, pb.ModelInferRequest):
        known.model_name, known.model_version, known.id = request.model_name, request.model_version, request.id
    known.parameters[FINAL].bool_param = True
    return pb.ModelStreamInferResponse(error_message=f"[{code}] {message}", infer_response=known)


def _value(parameter: Any) -> object:
    """What an InferParameter holds; None where it holds nothing."""
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise InvalidInput(f"repository_name: got {quote(request.repository_name)}, wanted none: there is one")


def _rows(session: Session, request: Any) -> Rows:
    inputs, outputs, raw = request.inputs, request.outputs, request.raw_input_contents
    if outputs or len(inputs) != 1 or inputs[0].name != session.input_name:
        oip.check_names(session, [tensor.name for tensor in inputs], [output.name for output in outputs])
        for output in outputs:
            oip.check_parameters(f"output {quote(output.name)}", output.parameters)
    tensor = inputs[0]
    if tensor.parameters:
        oip.check_parameters(f"input {quote(tensor.name)}", tensor.parameters)
    given = [field.name for field, _ in tensor.contents.ListFields()] if tensor.HasField("contents") else ()
    if raw:
        if len(raw) != 1:
            raise InvalidInput(f"raw_input_contents: got {len(raw)} parts, wanted one for each input (1)")
        if given:
            raise InvalidInput(f"input {quote(tensor.name)}: contents: got {', '.join(given)} and raw_input_contents")
        return oip.from_raw(session, tensor.datatype, tensor.shape, raw[0])
    values = tensor.contents.fp32_contents
    if tensor.datatype == oip.DATATYPE and given and given != ["fp32_contents"]:
        raise InvalidInput(f"input {quote(tensor.name)}: contents: got {', '.join(given)}, wanted fp32_contents")
    oip.check_tensor(session, tensor.datatype, tensor.shape, len(values))
    return np.array(values, np.float32).reshape(tensor.shape)
