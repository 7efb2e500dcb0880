"""FastAPI with ONNX Runtime in the handler, as its tutorial checks a body; served by one uvicorn worker."""

from __future__ import annotations

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from loadtest.peers.model import Model

app = FastAPI()
model = Model()


class Rows(BaseModel):
    """Feature rows [n, F]."""

    features: list[list[float]]


class Risks(BaseModel):
    """Risks [n, 1]."""

    risk: list[list[float]]


# `async def`: the model takes microseconds, the way to a thread and back takes more.
@app.post("/infer")
async def infer(rows: Rows) -> Risks:
    """Risks of feature rows."""
    return Risks(risk=model.risks(np.array(rows.features, np.float32)).tolist())
