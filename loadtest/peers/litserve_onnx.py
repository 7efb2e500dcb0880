"""LitServe with its batching and its fast queue, one worker process beside the server's."""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from loadtest.peers.model import Model


class Risks(litserve.LitAPI):
    """A feature row [F] in, its risk out."""

    def setup(self, device: str) -> None:
        self.model = Model()

    # LitServe reads this annotation, so it must be the class itself; what comes is the decoded JSON.
    def decode_request(self, request: Request) -> np.ndarray:
        return np.array(request["features"], np.float32)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.risks(rows)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"risk": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Risks(max_batch_size=64, batch_timeout=0.001), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
