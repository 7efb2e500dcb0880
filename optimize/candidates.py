"""The candidates: one ONNX file each, all from the same Keras model."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from optimize import graph, quantize
from optimize.convert import to_onnx
from optimize.runs import Rows
from optimize.speed import scorer

_TRIED_ROWS = 16

MEANINGS = {
    "fp32": "as tf2onnx converts it",
    "fp32 fused": "ONNX Runtime's fusions, applied offline",
    "fp32 lean": "columns selected by a product, limits by one Clip: the same risks to the last bit",
    "fp32 folded": "lean, and the encoding of the features folded into that product",
    "pruned": "small weights at zero, the rest fine-tuned; then lean and folded",
    "fp16": "lean, weights in half precision",
    "int8 dynamic": "lean, int8 weights, scales from each batch",
    "int8 static": "lean, int8 weights, scales from calibration rows",
}


@dataclass(frozen=True)
class Measured:
    """One row of the table.

    Args:
        name: which candidate.
        difference: largest absolute difference to the Keras risks, over validation and test rows.
        ap_lost_valid: average precision of Keras minus that of the candidate, on validation.
        ap_lost_test: the same on test.
        size: of the file, in bytes.
        size_zipped: of the file after zlib, in bytes: what a download would take.
        us_1, us_32, us_256: microseconds a row, in batches of 1, 32 and 256.
        dependence: largest change of a row's risk with the batch it comes in.
        dependence_padded: the same where batches are filled up to multiples of 16 rows.
    """

    name: str
    difference: float
    ap_lost_valid: float
    ap_lost_test: float
    size: int
    size_zipped: int
    us_1: float
    us_32: float
    us_256: float
    dependence: float
    dependence_padded: float

    @property
    def microseconds(self) -> float:
        """Geometric mean of the microseconds a row over the three batch sizes."""
        return float(np.exp(np.mean(np.log([self.us_1, self.us_32, self.us_256]))))

    def as_row(self) -> dict[str, Any]:
        """For the manifest: names to plain values."""
        return asdict(self)


def build(
    model: Any, small: Any, calibration: Rows, folder: Path, progress: Callable[[int], None]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Writes every candidate into `folder`.

    Args:
        model: the Keras model, float32 [n, F] -> [n, 1].
        small: a pruned copy of it.
        calibration: float32 [n, F], rows for the scales of "int8 static".
        folder: where the files go.
        progress: called with the number of candidates done, of `len(MEANINGS)`.

    Returns:
        Paths by name, in the order of `MEANINGS`; and, by name, why a candidate could not be made.

    Raises:
        ValueError: where the Keras model has an operation that ONNX has not.
    """
    paths = {name: folder / f"{name.replace(' ', '-')}.onnx" for name in MEANINGS}
    plain = to_onnx(model, calibration.shape[1])
    onnx.save(plain, paths["fp32"])
    light = graph.lean(plain)
    lean = paths["fp32 lean"]
    onnx.save(light, lean)
    makers: dict[str, Callable[[Path], None]] = {
        "fp32 fused": lambda target: graph.fuse(paths["fp32"], target),
        "fp32 folded": lambda target: onnx.save(graph.folded(light), target),
        "pruned": lambda target: onnx.save(_short(small, calibration.shape[1]), target),
        "fp16": lambda target: quantize.fp16(lean, target),
        "int8 dynamic": lambda target: quantize.int8_dynamic(lean, target),
        "int8 static": lambda target: quantize.int8_static(lean, target, calibration),
    }
    failures = {}
    for done, (name, make) in enumerate(makers.items(), start=2):
        progress(done)
        try:
            make(paths[name])
            onnx.checker.check_model(onnx.load(paths[name]))
            scorer(paths[name])(calibration[:_TRIED_ROWS])
        except Exception as failure:  # converters and ONNX Runtime have no common base; the table says why
            first_line = next(iter(str(failure).splitlines()), "")
            failures[name] = f"{type(failure).__name__}: {first_line}"
    return {name: path for name, path in paths.items() if name not in failures}, failures


def sizes(path: Path) -> tuple[int, int]:
    """Bytes of the file, and after zlib."""
    return os.path.getsize(path), len(zlib.compress(path.read_bytes(), 6))


def _short(model: Any, features: int) -> onnx.ModelProto:
    return graph.folded(graph.lean(to_onnx(model, features)))
