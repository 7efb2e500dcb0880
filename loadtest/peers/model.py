"""The model that every peer serves: an ONNX file, one thread, nothing of Vigil."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort


class Model:
    """`BENCH_MODEL` names the file; input "features" float32 [n, F], output "risk" float32 [n, 1]."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self.width = int(self._session.get_inputs()[0].shape[1])

    def risks(self, rows: np.ndarray) -> np.ndarray:
        """Risks [n, 1] of feature rows float32 [n, F]."""
        risks: np.ndarray = self._session.run(["risk"], {"features": rows})[0]
        return risks
