"""The laws of a loaded model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

import model_store
from testbed import tiny_model
from vigil import domains
from vigil.errors import InvalidInput, ModelRefused, NotFound
from vigil.scoring.external_data import has_external_data
from vigil.scoring.session import Session

WIDTH = 40
NAMES = [f"f{i}" for i in range(WIDTH)]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tiny_model.write_onnx(tmp_path_factory.mktemp("model") / "model.onnx", WIDTH)
    return Session(path.read_bytes(), "payments:1", "1", "digest", NAMES, max_batch=64)


def test_a_row_gets_the_same_risk_to_the_bit_alone_and_in_any_batch(session: Session) -> None:
    rows = np.random.default_rng(1).normal(0, 50, (300, WIDTH)).astype(np.float32)
    together = session.run(rows)
    for size in (1, 2, 3, 7, 16, 31, 64, 65, 299):
        parts = [session.run(rows[start : start + size]) for start in range(0, len(rows), size)]
        assert (np.concatenate(parts) == together).all(), size


def test_risks_are_float32_one_a_row(session: Session) -> None:
    risks = session.run(np.zeros((5, WIDTH), np.float32))
    assert (risks.dtype, risks.shape) == (np.float32, (5,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused_by_name(session: Session, value: float) -> None:
    rows = np.zeros((3, WIDTH), np.float32)
    rows[2, 7] = value
    with pytest.raises(InvalidInput, match=rf"features\[2\].f7: got {value}, wanted a finite float32"):
        session.run(rows)


@pytest.mark.parametrize("shape", [(1, WIDTH - 1), (0, WIDTH), (WIDTH,)])
def test_a_wrong_shape_is_refused(session: Session, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=rf"got shape .*, wanted \[n, {WIDTH}\] with n >= 1"):
        session.run(np.zeros(shape, np.float32))


def test_a_model_whose_rows_mix_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["m"], keepdims=1),
        helper.make_node("Sub", ["features", "m"], ["d"]),
        helper.make_node("ReduceMean", ["d"], ["z"], axes=[1], keepdims=1),
        helper.make_node("Sigmoid", ["z"], ["risk"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mixing",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("risk", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelRefused, match="depends on the rows beside it"):
        Session(path.read_bytes(), "payments:1", "1", "digest", NAMES)


def graph(width: int, *more: Any, name: str = "features", rows: int | None = None) -> Any:
    """A model of one layer, whose weight is an initializer."""
    weight = numpy_helper.from_array(np.ones((width, 1), np.float32), "w")
    nodes = [helper.make_node("MatMul", [name, "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["risk"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, width]), *more]
    outputs = [helper.make_tensor_value_info("risk", TensorProto.FLOAT, [rows, 1])]
    made = helper.make_graph(nodes, "one", inputs, outputs, [weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def outside(tensor: Any) -> None:
    set_external_data(tensor, "weights.bin", 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")


def in_constant(model: Any) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w2"], value=model.graph.initializer[0]))
    outside(model.graph.node[0].attribute[0].t)


def in_branch(model: Any) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w3"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [WIDTH, 1])],
        [numpy_helper.from_array(np.ones((WIDTH, 1), np.float32), "w3")],
    )
    outside(branch.initializer[0])
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True), "c"))
    chosen = helper.make_node("If", ["c"], ["chosen"], then_branch=branch, else_branch=branch)
    model.graph.node.extend([condition, chosen])


@pytest.mark.parametrize("where", [lambda model: outside(model.graph.initializer[0]), in_constant, in_branch])
def test_weights_in_another_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Callable[[Any], None]
) -> None:
    (tmp_path / "weights.bin").write_bytes(np.ones(WIDTH, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    model = graph(WIDTH)
    assert not has_external_data(model.SerializeToString())
    where(model)
    with pytest.raises(ModelRefused, match="it has weights in other files"):
        Session(model.SerializeToString(), "payments:1", "1", "digest", NAMES)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (graph(WIDTH - 1), r"inputs: got 'features tensor\(float\)"),
        (graph(WIDTH, name="other"), "inputs: got 'other"),
        (graph(WIDTH, rows=1), "inputs: got"),
        (graph(WIDTH, helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])), "inputs: got 'features .*; more"),
        (
            graph(WIDTH, helper.make_tensor_value_info("text", TensorProto.STRING, [1])),
            "inputs: got 'features .*; text",
        ),
    ],
)
def test_a_model_of_another_shape_is_refused(model: Any, why: str) -> None:
    with pytest.raises(ModelRefused, match=why):
        Session(model.SerializeToString(), "payments:1", "1", "digest", NAMES)


def test_damaged_models_are_refused_and_nothing_else_happens() -> None:
    whole, rng = graph(WIDTH).SerializeToString(), np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for at in rng.integers(0, len(damaged), rng.integers(0, 4)):
            damaged[at] = rng.integers(256)
        with suppress(ValueError):  # which `Session.load` refuses
            has_external_data(bytes(damaged))


def test_what_onnx_runtime_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bento"))
    payments = domains.load("payments")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    model_store.save(
        broken,
        domain=payments.name,
        spec_hash=payments.spec_hash,
        feature_names=payments.feature_names,
        candidate="broken",
        metrics={},
        candidates=[],
        data_from="",
        data_to="",
        code_commit="",
        created="2018-10-01T00:00:00Z",
    )
    with pytest.raises(ModelRefused, match="ONNX Runtime cannot run it"):
        Session.load(payments, "champion", 64)


def test_a_missing_model_says_which_commands_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bento"))
    with pytest.raises(NotFound, match="vigil optimize"):
        Session.load(domains.load("payments"), "champion", 64)
