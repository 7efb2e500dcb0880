"""The laws of a loaded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import model_store
from testbed import tiny_model
from vigil import domains
from vigil.errors import InvalidInput, ModelRefused, NotFound
from vigil.scoring.session import Session

WIDTH = 40
NAMES = [f"f{i}" for i in range(WIDTH)]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tiny_model.write_onnx(tmp_path_factory.mktemp("model") / "model.onnx", WIDTH)
    return Session(path, "payments:1", "1", "digest", NAMES, max_batch=64)


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
        Session(path, "payments:1", "1", "digest", NAMES)


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
