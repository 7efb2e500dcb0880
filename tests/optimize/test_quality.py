from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from optimize.quality import average_precision, dependence


@pytest.mark.parametrize("levels", [3, 50, 10_000])
def test_average_precision_is_that_of_scikit_learn_ties_included(levels: int) -> None:
    random = np.random.default_rng(3)
    labels = (random.random(2000) < 0.1).astype(np.uint8)
    risks = (random.integers(0, levels, 2000) / levels).astype(np.float32)
    assert average_precision(labels, risks) == pytest.approx(average_precision_score(labels, risks))


def test_a_scorer_that_looks_at_each_row_alone_depends_on_no_batch() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    assert dependence(lambda part: part[:, 0] * 2, rows) == 0.0


def test_a_scorer_that_looks_at_the_whole_batch_is_found_out() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    assert dependence(lambda part: part[:, 0] - part[:, 0].max(), rows) > 0.0


def test_filling_up_hides_what_depends_on_left_over_rows_only() -> None:
    def uneven(part: np.ndarray) -> np.ndarray:
        risks = part[:, 0].copy()
        risks[len(part) // 4 * 4 :] += 1e-6
        return risks

    rows = np.random.default_rng(0).random((300, 3)).astype(np.float32)
    assert dependence(uneven, rows) > 0.0
    assert dependence(uneven, rows, padded_to=16) == 0.0
