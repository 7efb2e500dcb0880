"""MLServer with a custom runtime, as its documentation writes one; in the server's process, no worker pool."""

from __future__ import annotations

import mlserver
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtest.peers.model import Model


class Risks(mlserver.MLModel):
    """Tensor "features" [n, F] in, tensor "risk" [n, 1] out."""

    async def load(self) -> bool:
        self._model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        risk = NumpyCodec.encode_output("risk", self._model.risks(rows.astype(np.float32)))
        return InferenceResponse(model_name=self.name, outputs=[risk])
