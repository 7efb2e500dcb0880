"""Platt scaling."""

from __future__ import annotations

import numpy as np

from training.calibrate import platt


def drawn(seed: int, n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn with just their probability."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-3, 2, n)
    return logits, (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.uint8)


def test_calibrated_logits_stay_as_they_are() -> None:
    slope, intercept = platt(*drawn(0))
    assert abs(slope - 1) < 0.03
    assert abs(intercept) < 0.05


def test_a_calibration_that_is_done_again_changes_nothing() -> None:
    logits, y = drawn(1, 5_000)
    slope, intercept = platt(2 * logits + 1, y)
    again = platt(slope * (2 * logits + 1) + intercept, y)
    np.testing.assert_allclose(again, (1, 0), atol=1e-4)


def test_stretched_and_shifted_logits_are_brought_back() -> None:
    logits, y = drawn(2)
    slope, intercept = platt(3 * logits - 2, y)
    straight = platt(logits, y)
    np.testing.assert_allclose((slope * 3, intercept - 2 * slope), straight, atol=1e-3)


def test_the_mean_risk_becomes_the_share_of_bad_events() -> None:
    logits, y = drawn(3, 20_000)
    slope, intercept = platt(0.2 * logits + 4, y)
    risk = 1 / (1 + np.exp(-(slope * (0.2 * logits + 4) + intercept)))
    assert abs(risk.mean() - y.mean()) < 1e-6


def test_the_order_is_never_turned_round() -> None:
    logits, y = drawn(4, 5_000)
    slope, intercept = platt(-logits, y)
    assert slope == 1.0
    risk = 1 / (1 + np.exp(-(-logits + intercept)))
    assert abs(risk.mean() - y.mean()) < 1e-6
