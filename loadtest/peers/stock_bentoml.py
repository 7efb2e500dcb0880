"""BentoML as its documentation shows it, one worker: an API, and one that BentoML batches."""

from __future__ import annotations

import bentoml
import numpy as np

from loadtest.peers.model import Model


@bentoml.service(workers=1)
class Stock:
    """One model, two APIs."""

    def __init__(self) -> None:
        self._model = Model()

    @bentoml.api
    def infer(self, features: np.ndarray) -> np.ndarray:
        """Risks [n, 1] of feature rows [n, F]."""
        return self._model.risks(features.astype(np.float32))

    @bentoml.api(batchable=True)
    def batched(self, features: np.ndarray) -> np.ndarray:
        """The same, rows of several callers together."""
        return self._model.risks(features.astype(np.float32))
