"""`/v2`: the Open Inference Protocol over HTTP, with JSON tensors and the binary tensor extension."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np

from vigil.domains.schema import UNREADABLE
from vigil.errors import InvalidInput, TooLarge, Unavailable, shown
from vigil.scoring.caller import Caller, Then
from vigil.scoring.session import Rows, Session
from vigil.transports import oip
from vigil.transports.http.message import ENCODING, HEADER_LENGTH, Request, Response, json
from vigil.transports.worker import Worker

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
        worker: whose engines answer.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def server(self, request: Request) -> Response:
        """Who answers."""
        return json(oip.SERVER)

    async def live(self, request: Request) -> Response:
        """Answers while the process runs."""
        return json({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 once models are loaded and warmed; until then, 503 with the reason."""
        if reason := self._worker.not_ready():
            raise Unavailable(f"not ready: {reason}")
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
        engine = self._worker.engine(request.path["model"], "model")
        return json({"model_stats": oip.statistics(engine, request.path.get("version", ""))})

    async def all_statistics(self, request: Request) -> Response:
        """The same of every model."""
        return json({"model_stats": [each for e in self._worker.engines.values() for each in oip.statistics(e, "")]})

    def check_room(self, path: Mapping[str, str]) -> None:
        """Raises Overloaded while the queue is full: before the work of reading and decoding what would be refused."""
        self._worker.engine(path["model"], "model").check_room_for_rows()

    def infer(self, request: Request, caller: Caller[Response]) -> None:
        """Feature rows to risks. With `X-Request-Timeout-Ms` what cannot begin in time is answered 504."""
        name = request.path["model"]
        engine = self._worker.engine(name, "model")
        session = oip.model_of(engine, request.path.get("version", ""))
        head, tail = _parted(request, self._worker.settings.max_body_bytes)
        asked = _decoded(head)
        if asked.model_name or asked.model_version:
            _check_named(asked, request.path["model"], session.version)
        rows = _rows(session, asked, tail)
        deadline_s = request.deadline_s()
        if asked.parameters:
            deadline_s = oip.deadline_s(asked.parameters.get("timeout"), request.arrived_s, deadline_s)
        answer = partial(_answer, name, session, asked.id, _binary(asked))
        engine.put_rows(rows, Then(caller, answer), session, deadline_s)

    def _model(self, request: Request) -> Session:
        engine = self._worker.engine(request.path["model"], "model")
        return oip.model_of(engine, request.path.get("version", ""))


def _parted(request: Request, max_bytes: int) -> tuple[bytes, memoryview]:
    """The JSON of a body, which may be compressed, and the tensors' bytes behind it."""
    body = request.body
    if not request.headers:
        return body, EMPTY
    if encoding := request.headers.get(ENCODING):
        body = _unpacked(body, encoding, max_bytes)
    length = request.headers.get(HEADER_LENGTH)
    if not length:
        return body, EMPTY
    if not length.isdigit() or len(length) > MOST_DIGITS or int(length) > len(body):
        raise InvalidInput(f"{HEADER_LENGTH.decode()}: got {shown(length.decode('latin-1'))}, wanted 0 to {len(body)}")
    return body[: int(length)], memoryview(body)[int(length) :]


def _unpacked(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """A compressed body, unpacked no further than to its limit."""
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise InvalidInput(f"content-encoding: got {shown(encoding.decode('latin-1'))}, wanted gzip or deflate")
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # tells gzip and zlib apart by their first bytes
    try:
        unpacked = stream.decompress(body, max_bytes + 1)
    except zlib.error as failure:
        raise InvalidInput(f"body: {failure}; wanted {encoding.decode()}") from None
    if len(unpacked) > max_bytes:
        raise TooLarge(f"body: got more than {max_bytes} bytes unpacked, wanted at most {max_bytes}")
    if not stream.eof:
        raise InvalidInput(f"body: got an end amid compressed data, wanted the whole of it as {encoding.decode()}")
    if stream.unused_data:
        raise InvalidInput(f"body: got {len(stream.unused_data)} bytes behind the compressed data, wanted none")
    return unpacked


def _decoded(head: bytes) -> InferRequest:
    try:
        try:
            return _decode_flat(head)
        except msgspec.ValidationError:  # nested, or wrong: the loose decoder can tell
            asked = _decode_loose(head)
    except UNREADABLE as failure:
        raise InvalidInput(f"body: {failure}; wanted an inference request") from None
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
            raise InvalidInput(f"{field}: got {shown(got)}, wanted {wanted!r} as asked for by the path, or none")


def _rows(session: Session, asked: InferRequest, tail: memoryview) -> Rows:
    oip.check_names(session, [tensor.name for tensor in asked.inputs], [t.name for t in asked.outputs or ()])
    tensor, size = asked.inputs[0], None
    if tensor.parameters:
        oip.check_parameters(f"input {tensor.name!r}", tensor.parameters)
        size = tensor.parameters.get("binary_data_size")
    for output in asked.outputs or ():
        if output.parameters:
            oip.check_parameters(f"output {output.name!r}", output.parameters)
    if size is None:
        if len(tail):
            raise InvalidInput(f"input {tensor.name!r}: binary_data_size: got none, wanted {len(tail)}")
        if tensor.data is None:
            raise InvalidInput(f"input {tensor.name!r}: data: got none, wanted numbers or binary_data_size")
        oip.check_tensor(session, tensor.datatype, tensor.shape, len(tensor.data))
        # A float64 beyond float32 becomes infinite here, without a warning, and is refused as such by the session.
        return np.frombuffer(array("f", tensor.data), np.float32).reshape(tensor.shape)
    if tensor.data is not None:
        raise InvalidInput(f"input {tensor.name!r}: data: got numbers and binary_data_size, wanted one of them")
    if size.__class__ is not int or size != len(tail):
        raise InvalidInput(f"input {tensor.name!r}: binary_data_size: got {shown(size)}, wanted {len(tail)}")
    return oip.from_raw(session, tensor.datatype, tensor.shape, tail)


def _flat(name: str, data: list[Any]) -> list[float]:
    """Numbers of flat or nested lists, in row-major order."""
    while any(value.__class__ is list for value in data):
        if not all(value.__class__ is list for value in data):
            raise InvalidInput(f"input {name!r}: data: got lists of unequal depth, wanted numbers")
        data = [value for part in data for value in part]
    for i, value in enumerate(data):
        if value.__class__ is not float and (value.__class__ is not int or abs(value) > MAX_INT):
            raise InvalidInput(f"input {name!r}: data[{i}]: got {shown(value)}, wanted a number")
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
    return _flag(f"output {output.name!r}: parameters", output.parameters, "binary_data", default)


def _flag(where: str, parameters: Parameters | None, name: str, default: bool) -> bool:
    value = parameters.get(name, default) if parameters else default
    if value.__class__ is not bool:
        raise InvalidInput(f"{where}.{name}: got {shown(value)}, wanted true or false")
    return bool(value)
