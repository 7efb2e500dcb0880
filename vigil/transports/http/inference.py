"""`/v2`: the Open Inference Protocol over HTTP, with JSON tensors and the binary tensor extension."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from vigil.domains.schema import UNREADABLE
from vigil.engine import Engine
from vigil.errors import InvalidInput, Unavailable, cut, quote
from vigil.scoring.caller import Caller, Then, future_of, run_for
from vigil.scoring.session import Rows, Session
from vigil.transports import oip
from vigil.transports.engines import Engines
from vigil.transports.http.message import HEADER_LENGTH, LARGE_BYTES, Request, Response, json

EMPTY = memoryview(b"")
MOST_DIGITS = 18  # of a length; Python refuses to read numbers of thousands
MAX_INT = 1 << 1023  # that becomes a float64
Parameters = dict[str, Any]


class InputTensor(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """An input tensor with flat `data`, or with its bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = None
    parameters: Parameters | None = None


class OutputTensor(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """An output asked for."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Body of an infer request. Some clients (KServe's) say once more what the path says."""

    inputs: list[InputTensor]
    id: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    outputs: list[OutputTensor] | None = None
    parameters: Parameters | None = None


class LooseTensor(InputTensor, forbid_unknown_fields=True, kw_only=True, gc=False):
    """An input tensor with anything as `data`: nested lists, or what is wrong."""

    data: list[Any] | None = None


class LooseRequest(InferRequest, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Body of an infer request whose data are not simply numbers."""

    inputs: list[LooseTensor]  # type: ignore[assignment]


_decode_flat = msgspec.json.Decoder(InferRequest).decode
_decode_loose = msgspec.json.Decoder(LooseRequest).decode
_encode = msgspec.json.Encoder().encode


class InferenceRoutes:
    """Handlers of `/v2/...`.

    Args:
        engines: which answer.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def server(self, request: Request) -> Response:
        """Who answers."""
        return json(oip.SERVER)

    async def live(self, request: Request) -> Response:
        """Answers while the process runs."""
        return json({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 once models are loaded and warmed; until then, 503 with the reason.

        With `?degraded=true` also while the feature state is away: rules answer then. Where callers need keys, the
        reason is for the log: anyone may ask this.
        """
        if reason := self._engines.not_ready(request.flag("degraded")):
            raise Unavailable("not ready" if self._engines.gate.asks else f"not ready: {reason}")
        return json({"ready": True})

    async def metadata(self, request: Request) -> Response:
        """A model's versions and tensors."""
        return json(oip.metadata(request.path["model"], self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        """200 where the model answers."""
        self._model(request)
        return json({"name": request.path["model"], "ready": True})

    async def config(self, request: Request) -> Response:
        """A model's configuration, as Triton writes it."""
        return json(oip.config(request.path["model"], self._model(request)))

    async def statistics(self, request: Request) -> Response:
        """What a model's versions have done since they were loaded."""
        engine = self._engines.get(request.path["model"], "model")
        return json({"model_stats": oip.statistics(engine, request.path.get("version", ""))})

    async def all_statistics(self, request: Request) -> Response:
        """The same of every model."""
        return json({"model_stats": [each for e in self._engines.by_name.values() for each in oip.statistics(e, "")]})

    def check_room(self, path: Mapping[str, str]) -> None:
        """Raises Overloaded while the queue is full: before the work of reading and decoding what would be refused."""
        self._engines.get(path["model"], "model").model.check_room()

    def infer(self, request: Request, caller: Caller[Response]) -> None:
        """Feature rows to risks. With `X-Request-Timeout-Ms` what cannot begin in time is answered 504."""
        engine = self._engines.get(request.path["model"], "model")
        session = oip.model_of(engine, request.path.get("version", ""))
        if len(request.body) > LARGE_BYTES:
            run_for(caller, self._infer_aside(request, engine, session))
        else:
            self._submit(request, engine, session, *_asked(request, session), caller)

    async def _infer_aside(self, request: Request, engine: Engine, session: Session) -> Response:
        asked, rows = await asyncio.to_thread(_asked, request, session)
        return await future_of(lambda each: self._submit(request, engine, session, asked, rows, each))

    def _submit(
        self,
        request: Request,
        engine: Engine,
        session: Session,
        asked: InferRequest,
        rows: Rows,
        caller: Caller[Response],
    ) -> None:
        name = request.path["model"]
        self._engines.gate.charge(request.identity, len(rows) - 1)
        deadline_s = request.deadline_s()
        if asked.parameters:
            deadline_s = oip.deadline_s(asked.parameters.get("timeout"), request.arrived_s, deadline_s)
        answer = partial(_answer, name, session, asked.id, _binary(asked))
        engine.model.submit(rows, Then(caller, answer), session, deadline_s)

    def _model(self, request: Request) -> Session:
        engine = self._engines.get(request.path["model"], "model")
        return oip.model_of(engine, request.path.get("version", ""))


def _asked(request: Request, session: Session) -> tuple[InferRequest, Rows]:
    """What is asked of a model, and the feature rows."""
    head, tail = _split_body(request)
    asked = _decode_head(head)
    if asked.model_name or asked.model_version:
        _check_named(asked, request.path["model"], session.version)
    return asked, _rows(session, asked, tail)


def _split_body(request: Request) -> tuple[bytes, memoryview]:
    """The JSON of a body, and the tensors' bytes behind it."""
    body = request.body
    length = request.headers.get(HEADER_LENGTH)
    if not length:
        return body, EMPTY
    if not length.isdigit() or len(length) > MOST_DIGITS or int(length) > len(body):
        raise InvalidInput(f"{HEADER_LENGTH.decode()}: got {quote(length.decode('latin-1'))}, wanted 0 to {len(body)}")
    return body[: int(length)], memoryview(body)[int(length) :]


def _decode_head(head: bytes) -> InferRequest:
    try:
        try:
            return _decode_flat(head)
        except msgspec.ValidationError:  # nested, or wrong: the loose decoder can tell
            asked = _decode_loose(head)
    except UNREADABLE as failure:
        raise InvalidInput(f"body: {cut(str(failure), 200)}; wanted an inference request") from None
    for tensor in asked.inputs:
        if tensor.data is not None:
            tensor.data = _flat(tensor.name, tensor.data)
    return asked


def _check_named(asked: InferRequest, model: str, version: str) -> None:
    for field, got, wanted in (
        ("model_name", asked.model_name, model),
        ("model_version", asked.model_version, version),
    ):
        if got and got != wanted:
            raise InvalidInput(f"{field}: got {quote(got)}, wanted {wanted!r} as asked for by the path, or none")


def _rows(session: Session, asked: InferRequest, tail: memoryview) -> Rows:
    oip.check_names(session, [tensor.name for tensor in asked.inputs], [t.name for t in asked.outputs or ()])
    tensor, size = asked.inputs[0], None
    if tensor.parameters:
        oip.check_parameters(f"input {quote(tensor.name)}", tensor.parameters)
        size = tensor.parameters.get("binary_data_size")
    for output in asked.outputs or ():
        if output.parameters:
            oip.check_parameters(f"output {quote(output.name)}", output.parameters)
    if size is None:
        if len(tail):
            raise InvalidInput(f"input {quote(tensor.name)}: binary_data_size: got none, wanted {len(tail)}")
        if tensor.data is None:
            raise InvalidInput(f"input {quote(tensor.name)}: data: got none, wanted numbers or binary_data_size")
        oip.check_tensor(session, tensor.datatype, tensor.shape, len(tensor.data))
        # A float64 beyond float32 becomes infinite here, without a warning, and is refused as such by the session.
        return np.frombuffer(array("f", tensor.data), np.float32).reshape(tensor.shape)
    if tensor.data is not None:
        raise InvalidInput(f"input {quote(tensor.name)}: data: got numbers and binary_data_size, wanted one of them")
    if size.__class__ is not int or size != len(tail):
        raise InvalidInput(f"input {quote(tensor.name)}: binary_data_size: got {quote(size)}, wanted {len(tail)}")
    return oip.from_raw(session, tensor.datatype, tensor.shape, tail)


def _flat(name: str, data: list[Any]) -> list[float]:
    """Numbers of flat or nested lists, in row-major order."""
    while list in (kinds := set(map(type, data))):
        if len(kinds) > 1:
            raise InvalidInput(f"input {quote(name)}: data: got lists of unequal depth, wanted numbers")
        data = list(chain.from_iterable(data))
    for i, value in enumerate(data if kinds - {float} else ()):
        if value.__class__ is not float and (value.__class__ is not int or abs(value) > MAX_INT):
            raise InvalidInput(f"input {quote(name)}: data[{i}]: got {quote(value)}, wanted a number")
    return data


def _answer(name: str, session: Session, id_: str | None, binary: bool, risks: Rows) -> Response:
    output: dict[str, Any] = {"name": session.output_name, "datatype": oip.DATATYPE, "shape": [len(risks), 1]}
    answer: dict[str, Any] = {"model_name": name, "model_version": session.version, "outputs": [output]}
    if id_:
        answer["id"] = id_
    if not binary:
        output["data"] = risks.tolist()
        return json(answer)
    raw = risks.astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(raw)}
    head = _encode(answer)
    headers = ((b"content-type", b"application/octet-stream"), (HEADER_LENGTH, str(len(head)).encode()))
    return Response(head + raw, headers=headers)


def _binary(asked: InferRequest) -> bool:
    """Whether the output is wanted as bytes: the tensor's own parameter counts before the request's."""
    default = _flag("parameters", asked.parameters, "binary_data_output", False)
    if not asked.outputs:
        return default
    output = asked.outputs[0]
    return _flag(f"output {quote(output.name)}: parameters", output.parameters, "binary_data", default)


def _flag(where: str, parameters: Parameters | None, name: str, default: bool) -> bool:
    value = parameters.get(name, default) if parameters else default
    if value.__class__ is not bool:
        raise InvalidInput(f"{where}.{name}: got {quote(value)}, wanted true or false")
    return bool(value)
