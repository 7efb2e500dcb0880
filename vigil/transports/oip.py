"""The Open Inference Protocol v2 without its encodings: what a model declares and what a request may ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from vigil import __version__
from vigil.errors import InvalidInput, NotFound, quote
from vigil.scoring.session import stored_versions

if TYPE_CHECKING:
    from vigil.engine import Engine
    from vigil.scoring.session import Rows, Session

EXTENSIONS = ["binary_tensor_data", "parameters", "statistics", "model_repository", "model_configuration"]
SERVER = {"name": "vigil", "version": __version__, "extensions": EXTENSIONS}
PLATFORM = "onnxruntime_onnx"
DATATYPE = "FP32"
# Ignoring these would give another answer than the one asked for.
UNSUPPORTED = {"classification", "shared_memory_region"}


def model_of(engine: Engine, version: str) -> Session:
    """The loaded model, in the version asked for ("" for any).

    Raises:
        Unavailable: without a model.
        NotFound: for another version, listing the loaded one.
    """
    session = engine.model.current()
    if version and version != session.version:
        raise NotFound(f"no version {quote(version)} of model {engine.domain.name!r}; there are {session.version}")
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


def config(name: str, session: Session) -> dict[str, Any]:
    """A model's configuration, in the words of Triton's model configuration extension."""
    tensor = {"data_type": f"TYPE_{DATATYPE}"}
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": session.max_batch,
        "input": [{"name": session.input_name, **tensor, "dims": [len(session.feature_names)]}],
        "output": [{"name": session.output_name, **tensor, "dims": [1]}],
        "dynamic_batching": {},
        "instance_group": [{"name": name, "kind": "KIND_CPU", "count": 1}],
        "default_model_filename": "model.onnx",
    }


def index(engines: Iterable[Engine], ready: bool) -> list[dict[str, str]]:
    """Every version of the models that the store holds or that is loaded, with its state and the reason for it.

    Args:
        engines: of the domains that are served.
        ready: whether to leave out what does not answer.
    """
    entries = []
    for engine in engines:
        name, session = engine.domain.name, engine.model.session
        loaded = session.version if session else ""
        for version in sorted({*stored_versions(engine.domain), loaded} - {""}) or [""]:
            if version and version == loaded:
                entries.append({"name": name, "version": version, "state": "READY", "reason": ""})
            elif not ready:
                reason = f"version {loaded} is loaded" if loaded else engine.model.problem
                entries.append({"name": name, "version": version, "state": "UNAVAILABLE", "reason": reason})
    return entries


def statistics(engine: Engine, version: str) -> list[dict[str, Any]]:
    """What each version has done since this process first loaded it, or the one asked for ("" for all).

    Raises:
        NotFound: for a version that never was loaded, listing those that were.
    """
    name, known = engine.domain.name, engine.model.statistics
    if version and version not in known:
        raise NotFound(
            f"no statistics of version {quote(version)} of model {name!r}; there are {', '.join(known) or 'none'}"
        )
    return [
        {
            "name": name,
            "version": each,
            "last_inference": found.last_inference_ms,
            "inference_count": found.inferences,
            "execution_count": found.executions,
            "inference_stats": {
                "success": asdict(found.success),
                "fail": asdict(found.fail),
                "queue": asdict(found.queue),
                **asdict(found.compute),
            },
            "batch_stats": [{"batch_size": size, **asdict(times)} for size, times in sorted(found.by_size.items())],
        }
        for each, found in known.items()
        if version in ("", each)
    ]


def deadline_s(timeout_us: object, started_s: float, until_s: float | None = None) -> float | None:
    """When a request that began at `started_s` gives up, of `time.perf_counter`; None: never.

    Args:
        timeout_us: its parameter `timeout`, microseconds; None or 0: it waits.
        started_s: of `time.perf_counter`.
        until_s: when its transport gives up; the earlier counts.

    Raises:
        InvalidInput: where that is no whole number of at most 63 bits, or negative.
    """
    if timeout_us is None:
        return until_s
    if not isinstance(timeout_us, int) or isinstance(timeout_us, bool) or not 0 <= timeout_us < 1 << 63:
        raise InvalidInput(f"parameters.timeout: got {quote(timeout_us)}, wanted whole microseconds")
    if timeout_us == 0:
        return until_s
    own_s = started_s + timeout_us * 1e-6
    return own_s if until_s is None else min(own_s, until_s)


def check_load(parameters: Iterable[str]) -> None:
    """Raises InvalidInput for a load that brings its own files: only what the store holds can be verified."""
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            raise InvalidInput(f"parameters: got {quote(name)}, wanted none: the model store says what is loaded")


def check_parameters(where: str, parameters: Mapping[str, object]) -> None:
    """Raises InvalidInput for a tensor's parameters that ask for what is not offered; others are ignored."""
    for name in UNSUPPORTED & parameters.keys():
        raise InvalidInput(f"{where}: parameters: got {quote(name)}, which is not offered; wanted data in the request")


def check_names(session: Session, inputs: Sequence[str], outputs: Iterable[str]) -> None:
    """Raises InvalidInput unless there is exactly the declared input, and no output but the declared one."""
    if list(inputs) != [session.input_name]:
        raise InvalidInput(f"inputs: got {quote(list(inputs))}, wanted one tensor named {session.input_name!r}")
    for name in outputs:
        if name != session.output_name:
            raise InvalidInput(f"outputs: got {quote(name)}, wanted {session.output_name!r}")


def check_tensor(session: Session, datatype: str, shape: Sequence[int], count: int) -> None:
    """Raises InvalidInput unless `count` values are an FP32 tensor of the declared width."""
    width = session.width
    if datatype == DATATYPE and len(shape) == 2 and shape[0] > 0 and shape[1] == width and count == shape[0] * width:
        return
    where = f"input {session.input_name!r}"
    if datatype != DATATYPE:
        raise InvalidInput(f"{where}: datatype: got {quote(datatype)}, wanted {DATATYPE}")
    if len(shape) != 2 or shape[0] < 1 or shape[1] != width:
        raise InvalidInput(f"{where}: shape: got {quote(list(shape))}, wanted [n, {width}] with n >= 1")
    raise InvalidInput(f"{where}: data: got {count} values, wanted {shape[0] * width} for shape {list(shape)}")


def from_raw(session: Session, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Rows:
    """Rows float32 [n, F] of little-endian bytes.

    Raises:
        InvalidInput: for a datatype, shape or length that is not the declared one.
    """
    if len(raw) % 4 and datatype == DATATYPE:
        raise InvalidInput(f"input {session.input_name!r}: data: got {len(raw)} bytes, wanted 4 for each value")
    check_tensor(session, datatype, shape, len(raw) // 4)
    rows: Rows = np.frombuffer(raw, "<f4").reshape(shape[0], shape[1])
    # Behind JSON of any length the bytes may start anywhere: copied only where that matters.
    return rows if rows.flags.aligned else np.require(rows, np.float32, "A")
