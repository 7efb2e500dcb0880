"""`/v2`: the Open Inference Protocol over HTTP, with JSON tensors and the binary tensor extension."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from vigil.errors import InvalidInput, Unavailable, shown
from vigil.scoring.session import Rows, Session
from vigil.transports import oip
from vigil.transports.http.message import Request, Response, json
from vigil.transports.worker import Worker

HEADER_LENGTH = b"inference-header-content-length"
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
    """Body of an infer request."""

    inputs: list[InputTensor]
    id: str = ""
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

    async def infer(self, request: Request) -> Response:
        """Feature rows to risks."""
        engine = self._worker.engine(request.path["model"], "model")
        session = oip.model_of(engine, request.path.get("version", ""))
        head, tail = _parted(request)
        asked = _decoded(head)
        rows = _rows(session, asked, tail)
        risks = await engine.infer(rows)
        return _answer(request.path["model"], session, asked, risks)

    def _model(self, request: Request) -> Session:
        engine = self._worker.engine(request.path["model"], "model")
        return oip.model_of(engine, request.path.get("version", ""))


def _parted(request: Request) -> tuple[bytes, memoryview]:
    """The JSON of a body and the tensors' bytes behind it."""
    body, length = request.body, request.header(HEADER_LENGTH)
    if not length:
        return body, memoryview(b"")
    if not length.isdigit() or int(length) > len(body):
        raise InvalidInput(f"{HEADER_LENGTH.decode()}: got {shown(length.decode('latin-1'))}, wanted 0 to {len(body)}")
    return body[: int(length)], memoryview(body)[int(length) :]


def _decoded(head: bytes) -> InferRequest:
    try:
        try:
            return _decode_flat(head)
        except msgspec.ValidationError:  # nested, or wrong: the loose decoder can tell
            asked = _decode_loose(head)
    except msgspec.DecodeError as failure:
        raise InvalidInput(f"body: {failure}; wanted an inference request") from None
    for tensor in asked.inputs:
        if tensor.data is not None:
            tensor.data = _flat(tensor.name, tensor.data)
    return asked


def _rows(session: Session, asked: InferRequest, tail: memoryview) -> Rows:
    oip.check_names(session, [tensor.name for tensor in asked.inputs], [t.name for t in asked.outputs or ()])
    tensor = asked.inputs[0]
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise InvalidInput(f"input {tensor.name!r}: data: got none, wanted numbers or binary_data_size")
        oip.check_tensor(session, tensor.datatype, tensor.shape, len(tensor.data))
        # A float64 beyond float32 becomes infinite here and is refused as such by the session.
        with np.errstate(over="ignore"):
            return np.array(tensor.data, np.float32).reshape(tensor.shape)
    if size != len(tail):
        raise InvalidInput(f"input {tensor.name!r}: binary_data_size: got {shown(size)}, wanted {len(tail)}")
    return oip.from_raw(session, tensor.datatype, tensor.shape, tail)


def _flat(name: str, data: list[Any]) -> list[float]:
    """Numbers of flat or nested lists, in row-major order."""
    while any(value.__class__ is list for value in data):
        if not all(value.__class__ is list for value in data):
            raise InvalidInput(f"input {name!r}: data: got lists of unequal depth, wanted numbers")
        data = [value for part in data for value in part]
    for i, value in enumerate(data):
        if value.__class__ is not float and value.__class__ is not int:
            raise InvalidInput(f"input {name!r}: data[{i}]: got {shown(value)}, wanted a number")
    return data


def _answer(name: str, session: Session, asked: InferRequest, risks: Rows) -> Response:
    output: dict[str, Any] = {"name": session.output_name, "datatype": oip.DATATYPE, "shape": [len(risks), 1]}
    answer: dict[str, Any] = {"model_name": name, "model_version": session.version, "outputs": [output]}
    if asked.id:
        answer["id"] = asked.id
    if not _binary(asked):
        output["data"] = risks.tolist()
        return json(answer)
    raw = risks.astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(raw)}
    head = _encode(answer)
    headers = ((b"content-type", b"application/octet-stream"), (HEADER_LENGTH, str(len(head)).encode()))
    return Response(head + raw, headers=headers)


def _binary(asked: InferRequest) -> bool:
    """Whether the output is wanted as bytes: the tensor's own parameter counts before the request's."""
    default = bool((asked.parameters or {}).get("binary_data_output", False))
    if not asked.outputs:
        return default
    return bool((asked.outputs[0].parameters or {}).get("binary_data", default))
