from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.graph import folded, fuse, lean
from optimize.speed import scorer

COLUMNS = np.array([2, 0, 0, 1], np.int64)
LOW = np.array([[1.0, 0.0, 5.0, 2.0]], np.float32)
SCALE = np.array([[0.5, 0.2, 0.25, 3.0]], np.float32)
WEIGHTS = np.array([[1.0], [0.5], [-2.0], [0.25]], np.float32)
ROWS = np.random.default_rng(1).normal(3.0, 4.0, (500, 3)).astype(np.float32)


def encoder(limits: tuple[str, str] = ("Min", "Max")) -> onnx.ModelProto:
    """clip((x[:, COLUMNS] - LOW) * SCALE, 0, 1) @ WEIGHTS, as tf2onnx writes it."""
    bounds = {"Min": "one", "Max": "zero"}
    nodes = [
        helper.make_node("Gather", ["features", "columns"], ["taken"], axis=1),
        helper.make_node("Sub", ["taken", "low"], ["less"]),
        helper.make_node("Mul", ["less", "scale"], ["scaled"]),
        helper.make_node(limits[0], ["scaled", bounds[limits[0]]], ["inner"]),
        helper.make_node(limits[1], ["inner", bounds[limits[1]]], ["clipped"]),
        helper.make_node("MatMul", ["clipped", "weights"], ["risk"]),
    ]
    numbers = {"columns": COLUMNS, "low": LOW, "scale": SCALE, "weights": WEIGHTS}
    numbers |= {"one": np.float32(1.0), "zero": np.float32(0.0)}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("risk", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def risks(model: onnx.ModelProto, folder: Path) -> np.ndarray:
    onnx.save(model, folder / "model.onnx")
    return scorer(folder / "model.onnx")(ROWS)


@pytest.mark.parametrize("limits", [("Min", "Max"), ("Max", "Min")])
def test_the_lean_graph_is_shorter_and_the_same_to_the_last_bit(limits: tuple[str, str], tmp_path: Path) -> None:
    model = encoder(limits)
    light = lean(model)
    assert [node.op_type for node in light.graph.node] == ["MatMul", "Sub", "Mul", "Clip", "MatMul"]
    np.testing.assert_array_equal(risks(light, tmp_path), risks(model, tmp_path))


def test_the_folded_graph_is_shorter_still_and_the_same_but_for_rounding(tmp_path: Path) -> None:
    model = encoder()
    short = folded(lean(model))
    assert [node.op_type for node in short.graph.node] == ["Gemm", "Clip", "MatMul"]
    np.testing.assert_allclose(risks(short, tmp_path), risks(model, tmp_path), atol=1e-6)


def test_the_original_is_left_as_it_was() -> None:
    model = encoder()
    before = model.SerializeToString()
    folded(lean(model))
    assert model.SerializeToString() == before


def test_limits_used_elsewhere_are_kept(tmp_path: Path) -> None:
    model = encoder()
    model.graph.node.append(helper.make_node("ReduceSum", ["inner"], ["total"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, []))
    assert "Clip" not in [node.op_type for node in lean(model).graph.node]


def test_the_fusions_of_onnx_runtime_keep_the_risks(tmp_path: Path) -> None:
    onnx.save(encoder(), tmp_path / "plain.onnx")
    fuse(tmp_path / "plain.onnx", tmp_path / "fused.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "fused.onnx"))
    np.testing.assert_allclose(scorer(tmp_path / "fused.onnx")(ROWS), scorer(tmp_path / "plain.onnx")(ROWS), atol=1e-6)
