"""Piecewise-linear encoding: a raw feature becomes how far it lies into each range between two knots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEVELS = np.unique(np.concatenate((np.linspace(0, 1, 9), [0.01, 0.99, 0.997, 0.999])))
_BAD_LEVELS = np.linspace(0, 1, 17)
_COMMON = 0.05  # a value more frequent than this would swallow the quantiles: the rest gets its own
_CLOSEST = 3e-3  # of the range up to the 99.9th percentile


@dataclass(frozen=True)
class Encoding:
    """m encoded inputs: `clip((x[:, columns] - low) * scale, 0, 1)`.

    Piecewise-linear encoding is from Gorishniy et al., "On Embeddings for Numerical Features in
    Tabular Deep Learning" (2022). Any value above the last knot counts as that knot, so it caps as well.

    Args:
        columns: int64[m], positions in the domain's feature vector.
        low: float32[m], where a range begins.
        scale: float32[m], one over its width.
    """

    columns: np.ndarray
    low: np.ndarray
    scale: np.ndarray

    def encode(self, x: np.ndarray) -> np.ndarray:
        """float32 [n, F] raw features -> float32 [n, m]."""
        out: np.ndarray = np.take(x, self.columns, axis=1)
        out -= self.low
        out *= self.scale
        return np.clip(out, 0.0, 1.0, out=out)


def learn(x: np.ndarray, y: np.ndarray, columns: list[int]) -> Encoding:
    """Knots from training rows: quantiles of all values, of those that are not the commonest, and of the bad events.

    Args:
        x: float32 [n, F], raw features.
        y: uint8 [n], labels.
        columns: the features to encode. Those that never change get no input.
    """
    place, low, scale = [], [], []
    for column in columns:
        knots = _knots(x[:, column], x[y == 1, column])
        place += [column] * (len(knots) - 1)
        low.append(knots[:-1])
        scale.append(1.0 / np.diff(knots))
    return Encoding(
        np.array(place, np.int64), np.concatenate(low).astype(np.float32), np.concatenate(scale).astype(np.float32)
    )


def _knots(values: np.ndarray, of_bad: np.ndarray) -> np.ndarray:
    """float32, ascending, at least `_CLOSEST` of the range apart."""
    found = [np.quantile(values, _LEVELS), np.quantile(of_bad, _BAD_LEVELS)]
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > 1 and counts.max() > _COMMON * len(values):
        found.append(np.quantile(values[values != distinct[counts.argmax()]], _LEVELS))
    candidates = np.unique(np.concatenate(found).astype(np.float32))
    closest = max((np.quantile(values, 0.999) - candidates[0]) * _CLOSEST, 1e-6)
    kept = [candidates[0]]
    for knot in candidates[1:]:
        if knot - kept[-1] > closest:
            kept.append(knot)
    return np.array(kept, np.float32)
