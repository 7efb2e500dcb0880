"""A small model for tests of serving: made with onnx alone, stored as `optimize` stores its winner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import model_store
from vigil.domains.spec import Domain

HIDDEN = 16


def write_onnx(path: Path, width: int, seed: int = 0) -> Path:
    """A Gemm-Sigmoid-Gemm-Sigmoid network over `width` features, input "features", output "risk"."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.normal(0, 0.05, (width, HIDDEN)),
        "b1": random.normal(0, 0.5, HIDDEN),
        "w2": random.normal(0, 1.0, (HIDDEN, 1)),
        "b2": np.zeros(1),
    }
    nodes = [
        helper.make_node("Gemm", ["features", "w1", "b1"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["risk"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("risk", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def store(folder: Path, domain: Domain, seed: int = 0, **more: Any) -> str:
    """Stores such a model as the domain's champion in BENTOML_HOME, with `more` in its manifest; gives its tag."""
    return model_store.save(
        write_onnx(folder / "model.onnx", len(domain.features), seed),
        domain=domain.name,
        spec_hash=domain.spec_hash,
        feature_names=domain.feature_names,
        candidate="tiny",
        metrics={},
        candidates=[],
        data_from="2018-04-01T00:00:00Z",
        data_to="2018-09-30T00:00:00Z",
        code_commit="none",
        created="2018-10-01T00:00:00Z",
        **more,
    )
