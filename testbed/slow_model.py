"""A model that takes milliseconds a batch: many products of matrices, stored as `optimize` stores its winner."""

from __future__ import annotations

import timeit
from pathlib import Path

import numpy as np
import onnxruntime as ort

import model_store
from vigil.domains.spec import Domain

HIDDEN = 512
TRIED_LAYERS = 20


def write(path: Path, width: int, layers: int, seed: int = 0) -> Path:
    """A chain of `layers` products with one matrix: input "features" [n, width], output "risk" [n, 1]."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = {
        "first": random.normal(0, 1e-3, (width, HIDDEN)),
        "between": random.normal(0, HIDDEN**-0.5, (HIDDEN, HIDDEN)),
        "last": random.normal(0, HIDDEN**-0.5, (HIDDEN, 1)),
    }
    nodes = [helper.make_node("Gemm", ["features", "first"], ["h0"])]
    nodes += [helper.make_node("Gemm", [f"h{i}", "between"], [f"h{i + 1}"]) for i in range(layers)]
    nodes += [helper.make_node("Gemm", [f"h{layers}", "last"], ["logit"])]
    nodes += [helper.make_node("Sigmoid", ["logit"], ["risk"])]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("risk", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def batch_s(path: Path, rows: int) -> float:
    """Seconds that a batch takes in one thread, at best."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batch = {"features": np.ones((rows, session.get_inputs()[0].shape[1]), np.float32)}
    return min(timeit.repeat(lambda: session.run(None, batch), number=1, repeat=20))


def store(folder: Path, domain: Domain, rows: int, seconds: float) -> str:
    """Stores a model that takes `seconds` for a batch of `rows` as the domain's champion in BENTOML_HOME; its tag."""
    path, width = folder / "model.onnx", len(domain.features)
    layers = max(1, round(seconds / (batch_s(write(path, width, TRIED_LAYERS), rows) / TRIED_LAYERS)))
    return model_store.save(
        write(path, width, layers),
        domain=domain.name,
        spec_hash=domain.spec_hash,
        feature_names=domain.feature_names,
        candidate=f"{layers} products",
        metrics={},
        candidates=[],
        data_from="2018-04-01T00:00:00Z",
        data_to="2018-09-30T00:00:00Z",
        code_commit="none",
        created="2018-10-01T00:00:00Z",
    )
