"""Platt scaling: a line through the logits that makes risks probabilities."""

from __future__ import annotations

import numpy as np

_ROUNDS = 100
_CLOSE = 1e-9


def platt(logits: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the most likely `sigmoid(slope * logit + intercept)`, by damped Newton steps.

    J. Platt, "Probabilistic Outputs for Support Vector Machines" (1999). Logits that are calibrated
    already get slope 1 and intercept 0. Never turns the order round: where the data asks for a slope
    of 0 or less, the slope stays 1 and only the intercept is found.

    Args:
        logits: float[n].
        y: uint8[n], labels.
    """
    columns = np.stack([logits.astype(np.float64), np.ones(len(logits))], axis=1)
    slope, intercept = _newton(columns, y, np.array([1.0, 0.0]), np.zeros(len(logits)))
    if slope > 0:
        return float(slope), float(intercept)
    return 1.0, float(_newton(columns[:, 1:], y, np.zeros(1), columns[:, 0])[0])


def _newton(columns: np.ndarray, y: np.ndarray, start: np.ndarray, offset: np.ndarray) -> np.ndarray:
    weights, value = start, _loss(columns @ start + offset, y)
    for _ in range(_ROUNDS):
        risk = 1.0 / (1.0 + np.exp(-(columns @ weights + offset)))
        slope = columns.T @ (risk - y)
        curve = (columns * (risk * (1 - risk))[:, None]).T @ columns + np.eye(len(weights)) * 1e-9
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while (after := _loss(columns @ (weights - size * step) + offset, y)) > value and size > _CLOSE:
            size /= 2
        if not after < value - _CLOSE * abs(value):
            break
        weights, value = weights - size * step, after
    return weights


def _loss(logit: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.logaddexp(0.0, logit) - y * logit))
