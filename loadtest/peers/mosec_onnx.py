"""mosec: its Rust server, and one worker process that gets batches."""

from __future__ import annotations

from typing import Any

import mosec
import numpy as np

from loadtest.peers.model import Model


class Risks(mosec.Worker):
    """Feature rows [F] of several callers in, a risk each out; JSON is mosec's default."""

    def __init__(self) -> None:
        self._model = Model()

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = np.array([each["features"] for each in data], np.float32)
        return [{"risk": risk} for risk in self._model.risks(rows).tolist()]


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Risks, num=1, max_batch_size=64, max_wait_time=1)
    server.run()
