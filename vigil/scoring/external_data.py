"""Whether an ONNX file is whole: weights that lie in other files are covered by no digest.

Reads the protobuf of the file itself (onnx.proto, encoding of Protocol Buffers): serving has no ONNX package, and
ONNX Runtime would open those files, wherever they are.
"""

from __future__ import annotations

from collections.abc import Iterator

# Of messages, the fields that lead to tensors, by number: ModelProto, GraphProto, NodeProto, AttributeProto,
# FunctionProto, SparseTensorProto, TrainingInfoProto.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION, _SPARSE, _TRAINING, _TENSOR = range(8)
_LEADS = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
}
_DATA_LOCATION, _EXTERNAL_DATA = 14, 13
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64


def has_external_data(model: bytes) -> bool:
    """Whether a model has tensors whose values lie outside its file.

    Raises:
        ValueError: for what is no protobuf, or nested too deeply.
    """
    return _looks_outside(memoryview(model), _MODEL, 0)


def _looks_outside(message: memoryview, kind: int, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    leads = _LEADS.get(kind, {})
    for number, value in _fields(message):
        if kind == _TENSOR:
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1):
                return True
        elif number in leads and isinstance(value, memoryview) and _looks_outside(value, leads[number], depth + 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == _VARINT:
            value, at = _varint(message, at)
        else:
            if wire == _LENGTH:
                size, at = _varint(message, at)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {wire}")
            if size > end - at:
                raise ValueError("cut short")
            value, at = message[at : at + size], at + size
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("cut short")
