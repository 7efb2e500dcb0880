"""The usual models on the same rows and columns, so that the network has company in the report."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.threads import one_thread
from vigil import host

NOTE = (
    "Logistic regression on standardised features; a random forest of 80 trees, each from a tenth of the rows, "
    "leaves of 5 or more; gradient boosting by histograms, 150 rounds of 15 leaves. "
    "All with the columns and rows of the network, none tuned, none calibrated."
)


def models(seed: int) -> dict[str, Any]:
    """The untrained baselines by name."""
    # Else scikit-learn asks `lscpu` how many cores there are, and warns where a container does not tell.
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(host.processors()))
    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        "random forest": RandomForestClassifier(
            n_estimators=80, min_samples_leaf=5, max_samples=0.1, n_jobs=host.processors(), random_state=seed
        ),
        "gradient boosting": HistGradientBoostingClassifier(
            max_iter=150, learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=30, l2_regularization=1.0,
            early_stopping=False, random_state=seed,
        ),
    }  # fmt: skip


def risks(
    train: tuple[np.ndarray, np.ndarray],
    test_x: np.ndarray,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Trains each baseline and gives its risks of the test rows, float64[n], by name.

    Args:
        train: float32 [n, k], labels uint8[n].
        test_x: float32 [m, k].
        progress: called with the number of models done.
    """
    found = {}
    for done, (name, model) in enumerate(models(seed).items(), start=1):
        with one_thread():
            found[name] = model.fit(*train).predict_proba(test_x)[:, 1]
        if progress:
            progress(done)
    return found
