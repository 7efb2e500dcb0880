"""The peer: the same ONNX model behind BentoML as its documentation shows it, one worker, nothing of Vigil."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1)
class Stock:
    """One model, one API. `BENCH_MODEL` names the ONNX file."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options)

    @bentoml.api  # type: ignore[untyped-decorator]
    def infer(self, features: np.ndarray) -> np.ndarray:
        """Risks [n, 1] of feature rows [n, F]."""
        risks: np.ndarray = self._session.run(["risk"], {"features": features.astype(np.float32)})[0]
        return risks
