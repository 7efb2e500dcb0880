"""Triton's python backend, by way of nvidia-pytriton, with Triton's dynamic batching."""

from __future__ import annotations

import os
import sys
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtest.peers.model import Model

model = Model()


@batch
def infer(features: np.ndarray) -> list[np.ndarray]:
    """Risks [n, 1] of feature rows [n, F]."""
    return [model.risks(features)]


if __name__ == "__main__":
    # The python backend loads libpython by its name, which another Python of this version may have as well.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    http_port, grpc_port, metrics_port = (int(port) for port in sys.argv[1:])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=http_port,
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        metrics_port=metrics_port,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="payments",
            infer_func=infer,
            inputs=[Tensor(name="features", dtype=np.float32, shape=(model.width,))],
            outputs=[Tensor(name="risk", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=64),
            strict=False,
        )
        triton.serve()
