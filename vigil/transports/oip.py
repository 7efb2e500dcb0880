"""The Open Inference Protocol v2 without its encodings: what a model declares and what a request may ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vigil import __version__
from vigil.errors import InvalidInput, NotFound, shown

if TYPE_CHECKING:
    from vigil.engine import Engine
    from vigil.scoring.session import Rows, Session

SERVER = {"name": "vigil", "version": __version__, "extensions": ["binary_tensor_data"]}
PLATFORM = "onnxruntime_onnx"
DATATYPE = "FP32"


def model_of(engine: Engine, version: str) -> Session:
    """The loaded model, in the version asked for ("" for any).

    Raises:
        Unavailable: without a model.
        NotFound: for another version, listing the loaded one.
    """
    session = engine.model()
    if version and version != session.version:
        raise NotFound(f"no version {version!r} of model {engine.domain.name!r}; there are {session.version}")
    return session


def metadata(name: str, session: Session) -> dict[str, Any]:
    """A model's name, versions, platform and tensors."""
    width = len(session.feature_names)
    return {
        "name": name,
        "versions": [session.version],
        "platform": PLATFORM,
        "inputs": [{"name": session.input_name, "datatype": DATATYPE, "shape": [-1, width]}],
        "outputs": [{"name": session.output_name, "datatype": DATATYPE, "shape": [-1, 1]}],
    }


def check_names(session: Session, inputs: Sequence[str], outputs: Iterable[str]) -> None:
    """Raises InvalidInput unless there is exactly the declared input, and no output but the declared one."""
    if list(inputs) != [session.input_name]:
        raise InvalidInput(f"inputs: got {shown(list(inputs))}, wanted one tensor named {session.input_name!r}")
    for name in outputs:
        if name != session.output_name:
            raise InvalidInput(f"outputs: got {shown(name)}, wanted {session.output_name!r}")


def check_tensor(session: Session, datatype: str, shape: Sequence[int], count: int) -> None:
    """Raises InvalidInput unless `count` values are an FP32 tensor of the declared width."""
    where, width = f"input {session.input_name!r}", len(session.feature_names)
    if datatype != DATATYPE:
        raise InvalidInput(f"{where}: datatype: got {shown(datatype)}, wanted {DATATYPE}")
    if len(shape) != 2 or shape[0] < 1 or shape[1] != width:
        raise InvalidInput(f"{where}: shape: got {shown(list(shape))}, wanted [n, {width}] with n >= 1")
    if count != shape[0] * width:
        raise InvalidInput(f"{where}: data: got {count} values, wanted {shape[0] * width} for shape {list(shape)}")


def from_raw(session: Session, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Rows:
    """Rows float32 [n, F] of little-endian bytes.

    Raises:
        InvalidInput: for a datatype, shape or length that is not the declared one.
    """
    if len(raw) % 4:
        raise InvalidInput(f"input {session.input_name!r}: data: got {len(raw)} bytes, wanted 4 for each value")
    check_tensor(session, datatype, shape, len(raw) // 4)
    # Behind JSON of any length the bytes may start anywhere: copied only where that matters.
    return np.require(np.frombuffer(raw, "<f4").reshape(shape[0], shape[1]), np.float32, "A")
