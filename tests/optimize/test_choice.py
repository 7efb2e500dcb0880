from __future__ import annotations

from dataclasses import replace

import pytest

from optimize.candidates import Measured
from optimize.choice import Budget, choose
from vigil.errors import ConfigError, ModelRefused

PLAIN = Measured(
    name="fp32",
    difference=1e-7,
    ap_lost_valid=0.0,
    ap_lost_test=0.0,
    size=1000,
    size_zipped=900,
    us_1=10.0,
    us_32=2.0,
    us_256=1.0,
    dependence=0.0,
    dependence_padded=0.0,
)
FAST = replace(PLAIN, name="fast", us_1=1.0, us_32=0.5, us_256=0.1)


def test_the_fastest_within_the_budget_wins() -> None:
    assert choose([PLAIN, FAST], Budget()) is FAST


@pytest.mark.parametrize(
    "spoilt",
    [
        replace(FAST, ap_lost_valid=0.002),
        replace(FAST, difference=1e-3),
        replace(FAST, dependence=1e-8, dependence_padded=1e-8),
        replace(FAST, ap_lost_valid=float("nan")),
        replace(FAST, difference=float("nan")),
    ],
    ids=["average precision", "risk", "batch", "no average precision", "no risk"],
)
def test_a_candidate_over_the_budget_never_wins(spoilt: Measured) -> None:
    assert choose([spoilt, PLAIN], Budget()) is PLAIN


def test_the_test_rows_choose_nothing() -> None:
    assert choose([PLAIN, replace(FAST, ap_lost_test=0.5)], Budget()).name == "fast"


def test_a_wider_budget_lets_a_lossy_candidate_win() -> None:
    lossy = replace(FAST, difference=0.05)
    assert choose([PLAIN, lossy], Budget(risk=0.1)) is lossy


def test_a_model_that_needs_whole_batches_may_win_as_the_service_fills_them() -> None:
    padded = replace(FAST, dependence=1e-8)
    assert choose([PLAIN, padded], Budget()) is padded


def test_within_noise_the_one_that_changes_less_wins() -> None:
    assert choose([PLAIN, replace(PLAIN, name="other", us_1=9.8)], Budget()) is PLAIN


def test_with_none_within_the_budget_the_costs_of_each_are_named() -> None:
    with pytest.raises(ModelRefused, match=r"fp32: AP \+0\.10000"):
        choose([replace(PLAIN, ap_lost_valid=0.1)], Budget())


@pytest.mark.parametrize("budget", [{"ap": 0.0}, {"ap": -1.0}, {"risk": 2.0}, {"risk": float("nan")}])
def test_a_budget_that_cannot_be_is_refused(budget: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget(**budget)
