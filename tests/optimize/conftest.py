"""A training run's folder with a small Keras model, made as training makes it, once for all tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.optimize.tills import DOMAIN
from vigil.domains.spec import Domain

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

USED = [0, 1, 2, 4, 5]
KNOTS = 8


def tiny_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, 7] amounts, counts and means; uint8 [n] labels, about one in ten positive."""
    random = np.random.default_rng(seed)
    x = np.exp(random.normal(3.0, 1.0, (n, 7))).astype(np.float32)
    x[:, 1::2] = np.floor(x[:, 1::2] / 10)
    logit = 2.0 * (x[:, 0] > 60) + 1.5 * (x[:, 1] > 3) - 0.02 * x[:, 2] - 3.0
    return x, (random.random(n) < 1 / (1 + np.exp(-logit))).astype(np.uint8)


def tiny_model(x: np.ndarray, y: np.ndarray) -> Any:
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(7)
    knots = np.quantile(x, np.linspace(0, 1, KNOTS + 1), axis=0)
    columns = np.repeat(USED, KNOTS)
    step = np.tile(np.arange(KNOTS), len(USED))
    low, high = knots[step, columns], knots[step + 1, columns]
    wide = high > low
    columns, low, scale = columns[wide], low[wide].astype("float32"), (1 / (high - low)[wide]).astype("float32")
    raw = keras.Input((x.shape[1],), dtype="float32", name="features")
    hidden = ops.clip((ops.take(raw, columns.astype(np.int32), axis=1) - low) * scale, 0.0, 1.0)
    for _ in range(2):
        hidden = layers.Dropout(0.1)(layers.Dense(16, activation="silu")(hidden))
    model = keras.Model(raw, layers.Activation("sigmoid")(layers.Dense(1)(hidden)))
    model.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy")
    model.fit(x, y.astype(np.float32)[:, None], batch_size=256, epochs=3, verbose=0)
    return model


@pytest.fixture(scope="session")
def domain() -> Domain:
    return DOMAIN


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, domain: Domain) -> Path:
    folder = tmp_path_factory.mktemp("run")
    parts = {
        name: tiny_rows(n, seed) for seed, (name, n) in enumerate({"train": 6000, "valid": 3000, "test": 3000}.items())
    }
    tiny_model(*parts["train"]).save(folder / "model.keras")
    arrays = {f"{name}_{axis}": part[i] for name, part in parts.items() for i, axis in enumerate("xy")}
    np.savez(folder / "rows.npz", **arrays)  # type: ignore[arg-type]
    (folder / "report.md").write_text("# the training report\n")
    facts = {
        "domain": domain.name,
        "spec_hash": domain.spec_hash,
        "feature_names": domain.feature_names,
        "metrics": {"ap": 0.5},
        "data_from": "2018-04-01T00:00:00Z",
        "data_to": "2018-09-30T00:00:00Z",
        "code_commit": "abc",
    }
    (folder / "run.json").write_text(json.dumps(facts))
    return folder
