"""Groups of features, and which of them earn their place."""

from __future__ import annotations

import numpy as np

from training.selection import choose, groups, importance, sets
from vigil import domains

PAYMENTS = domains.load("payments")


def rows(n: int, seed: int, telling: str) -> tuple[np.ndarray, np.ndarray]:
    """Noise in every column but one, which alone decides the label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(PAYMENTS.feature_names))).astype(np.float32)
    signal = x[:, PAYMENTS.feature_names.index(telling)]
    return x, (rng.random(n) < 1 / (1 + np.exp(4 - 3 * signal))).astype(np.uint8)


def test_every_feature_is_in_exactly_one_group() -> None:
    for name in domains.SHIPPED:
        domain = domains.load(name)
        members = [feature for group in groups(domain).values() for feature in group]
        assert sorted(members) == sorted(domain.feature_names)


def test_sets_keep_the_domains_order_and_are_all_different() -> None:
    found = sets(PAYMENTS)
    assert found["all"] == PAYMENTS.feature_names
    assert len(set(found.values())) == len(found)
    for features in found.values():
        assert list(features) == [name for name in PAYMENTS.feature_names if name in features]


def test_the_smallest_set_that_is_as_good_as_the_best_is_chosen() -> None:
    telling = "amount_over_usual"
    candidates = choose(PAYMENTS, rows(4000, 0, telling), rows(4000, 1, telling), seed=0)
    (chosen,) = (candidate for candidate in candidates if candidate.chosen)
    assert telling in chosen.features
    best = max(candidate.ap for candidate in candidates)
    for candidate in candidates:
        if len(candidate.features) < len(chosen.features):
            assert candidate.ap < best - 0.002


def test_the_group_that_tells_matters_most() -> None:
    telling = "amount_over_usual"
    x, y = rows(4000, 0, telling)
    at = PAYMENTS.feature_names.index(telling)
    lost = importance(PAYMENTS, lambda rows: rows[:, at], x, y, PAYMENTS.feature_names, seed=0)
    first, *others = lost
    assert telling in groups(PAYMENTS)[first]
    assert lost[first] > 0.1
    assert all(lost[name] == 0 for name in others)
