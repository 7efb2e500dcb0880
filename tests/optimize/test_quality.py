from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from optimize.quality import BIN_AT, average_precision, bins, dependence


@pytest.mark.parametrize("levels", [3, 50, 10_000])
def test_average_precision_is_that_of_scikit_learn_ties_included(levels: int) -> None:
    random = np.random.default_rng(3)
    labels = (random.random(2000) < 0.1).astype(np.uint8)
    risks = (random.integers(0, levels, 2000) / levels).astype(np.float32)
    assert average_precision(labels, risks) == pytest.approx(average_precision_score(labels, risks))


def test_bins_hold_the_shares_between_their_quantiles() -> None:
    risks = np.random.default_rng(3).beta(0.1, 5, 20_000).astype(np.float32)
    edges, shares = bins(risks)
    assert edges == sorted(edges)
    assert shares == pytest.approx(np.diff([0, *BIN_AT, 1]), abs=1e-3)
    assert shares[-1] == np.mean(risks >= edges[-1])


def test_equal_risks_share_a_bin() -> None:
    edges, shares = bins(np.repeat(np.array([0.1, 0.7], np.float32), [900, 100]))
    assert len(shares) == len(edges) + 1
    assert [share for share in shares if share] == [0.9, 0.1]


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
