"""How well a candidate keeps the Keras model's risks, and whether they depend on the company they come in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from optimize.runs import Labels, Rows

Risks = npt.NDArray[np.float32]
Scorer = Callable[[Rows], Risks]

BATCHES = (1, 2, 7, 32, 256)
WHOLE_ROWS = 16  # what the service fills batches up to
BIN_AT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_ROWS = 1024
_CHUNK = 8192


def average_precision(labels: Labels, risks: Risks) -> float:
    """Sum over the distinct thresholds, from high to low, of precision times the recall gained.

    Args:
        labels: uint8 [n], at least one of them 1.
        risks: float32 [n].
    """
    order = np.argsort(-risks, kind="stable")
    found = np.cumsum(labels[order], dtype=np.int64)
    last = np.append(np.flatnonzero(np.diff(risks[order])), len(risks) - 1)
    precision = found[last] / (last + 1.0)
    return float(np.sum(np.diff(found[last], prepend=0) * precision) / found[-1])


def bins(risks: Risks) -> tuple[list[float], list[float]]:
    """What later risks are compared with: edges between bins of a tenth each, the highest tenth finer; their shares.

    Args:
        risks: float32 [n].

    Returns:
        ascending edges, fewer where many risks are equal, and the share of the risks in each bin, one more than edges.
    """
    edges = np.unique(np.quantile(risks, BIN_AT, method="higher"))
    counts = np.bincount(np.searchsorted(edges, risks, side="right"), minlength=len(edges) + 1)
    return edges.tolist(), (counts / len(risks)).tolist()


def in_chunks(score: Scorer, rows: Rows) -> Risks:
    """`score` of many rows, float32 [n], without one huge batch."""
    return np.concatenate([score(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)])


def dependence(score: Scorer, rows: Rows, padded_to: int = 1) -> float:
    """The largest change of a row's risk between batches of 1, 2, 7, 32 and 256 rows; 0: the same to the last bit.

    Args:
        score: float32 [n, F] -> float32 [n].
        rows: float32 [n, F]; up to 1,024 of them, spread over all, are tried.
        padded_to: batches are filled up with rows of zeros to a multiple of this.
    """
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).astype(np.int64)]
    found = np.stack([_by_batches(score, rows, batch, padded_to) for batch in BATCHES])
    return float(np.max(found.max(axis=0) - found.min(axis=0)))


def _by_batches(score: Scorer, rows: Rows, batch: int, padded_to: int) -> Risks:
    risks = []
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        filled = np.zeros((len(part) + -len(part) % padded_to, rows.shape[1]), np.float32)
        filled[: len(part)] = part
        risks.append(score(filled)[: len(part)])
    return np.concatenate(risks)
