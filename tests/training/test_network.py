"""The encoding and the Keras model it becomes part of."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from training import encoding, network


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Five features: normal, skewed, mostly zero, constant, unused; the first three decide the label."""
    rng = np.random.default_rng(seed)
    x = np.stack(
        [
            rng.normal(size=n),
            rng.lognormal(3, 1, n),
            np.where(rng.random(n) < 0.8, 0, rng.random(n) * 9),
            np.full(n, 4.0),
            rng.normal(size=n),
        ],
        axis=1,
    ).astype(np.float32)
    y = rng.random(n) < 1 / (1 + np.exp(3 - x[:, 0] - x[:, 2] + (x[:, 1] < 10)))
    return x, y.astype(np.uint8)


def test_encoded_inputs_lie_between_zero_and_one_and_rise_with_the_feature() -> None:
    x, y = rows(3000, 0)
    code = encoding.learn(x, y, [0, 1, 2, 3])
    order = np.argsort(x[:, 1], kind="stable")
    encoded = code.encode(x)
    assert encoded.min() == 0.0
    assert encoded.max() == 1.0
    assert (np.diff(encoded[order][:, code.columns == 1], axis=0) >= 0).all()


def test_a_feature_that_never_changes_gets_no_input_and_an_unchosen_one_neither() -> None:
    x, y = rows(3000, 0)
    assert set(encoding.learn(x, y, [0, 1, 2, 3]).columns) == {0, 1, 2}


def test_ranges_between_knots_adjoin() -> None:
    x, y = rows(3000, 0)
    code = encoding.learn(x, y, [0])
    np.testing.assert_allclose(code.low[1:], code.low[:-1] + 1 / code.scale[:-1], rtol=1e-4, atol=1e-5)


def test_the_assembled_model_is_encoding_head_and_calibration_in_one(tmp_path: Path) -> None:
    x, y = rows(3000, 0)
    code = encoding.learn(x, y, [0, 1, 2])
    head = network.fit(code.encode(x), y, None, seed=1, epochs=1).head
    logits = network.logits(head, code.encode(x))
    model = network.assemble(code, head, slope=1.3, intercept=-0.4, features=5)
    risk = network.risks(model, x)
    np.testing.assert_allclose(risk, 1 / (1 + np.exp(-(1.3 * logits - 0.4))), atol=1e-6)
    assert (model.input.name, model.output_shape) == ("features", (None, 1))

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(network.risks(loaded, x), risk)


def test_the_same_seed_gives_the_same_network() -> None:
    x, y = rows(2000, 0)
    encoded = encoding.learn(x, y, [0, 1, 2]).encode(x)
    first, again = (network.logits(network.fit(encoded, y, None, 7, epochs=1).head, encoded) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_training_lowers_the_loss_and_tells_its_progress() -> None:
    x, y = rows(6000, 0)
    code = encoding.learn(x, y, [0, 1, 2])
    told: list[int] = []
    valid = rows(2000, 1)
    fitted = network.fit(code.encode(x), y, (code.encode(valid[0]), valid[1]), 0, 3, told.append)
    assert told == list(range(1, len(fitted.epochs) + 1))
    base = float(valid[1].mean())
    entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
    assert min(epoch["val_loss"] for epoch in fitted.epochs) < entropy


def test_an_untrained_head_starts_at_the_base_rate() -> None:
    head = network._head(4, 0.01)
    assert network.logits(head, np.zeros((1, 4), np.float32))[0] == pytest.approx(np.log(0.01 / 0.99), abs=1e-4)
