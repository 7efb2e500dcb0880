"""Smaller numbers: half precision, and eight bits with scales from each batch or from calibration rows.

What comes before the first layer of weights stays in float32: raw features (amounts, counts, ages)
do not fit into few bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxconverter_common import float16
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from optimize.convert import INPUT
from optimize.graph import SELECT
from optimize.runs import Rows

_PRODUCTS = ["MatMul", "Gemm"]
_CALIBRATION_ROWS, _CALIBRATION_BATCH = 4096, 256


def fp16(source: Path, target: Path) -> None:
    """Writes `source` with float16 weights; input and output stay float32."""
    model = onnx.load(source)
    kept = _before_weights(model)
    half = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    onnx.save(half, target)


def int8_dynamic(source: Path, target: Path) -> None:
    """Writes `source` with int8 weights; the scale of what flows is taken from each batch as it comes."""
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=_PRODUCTS,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_before_weights(onnx.load(source)),
    )


def int8_static(source: Path, target: Path, rows: Rows) -> None:
    """Writes `source` with int8 weights; the scales of what flows come from calibration `rows`, float32 [n, F]."""
    quantize_static(
        source,
        target,
        _Calibration(rows),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_PRODUCTS,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_before_weights(onnx.load(source)),
    )


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: Rows) -> None:
        spread = np.linspace(0, len(rows) - 1, min(len(rows), _CALIBRATION_ROWS)).astype(np.int64)
        self._batches: Iterator[Rows] = iter(
            [rows[spread[i : i + _CALIBRATION_BATCH]] for i in range(0, len(spread), _CALIBRATION_BATCH)]
        )

    def get_next(self) -> dict[str, Rows] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _before_weights(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes ahead of the first product with weights, the selection of columns among them."""
    names = []
    for node in model.graph.node:
        if node.op_type in _PRODUCTS and not node.name.startswith(SELECT):
            break
        names.append(node.name)
    return names
