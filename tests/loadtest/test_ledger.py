"""The ledger of a load test, and what a service's own histograms say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadtest.ledger import Cell, Ledger
from loadtest.server_side import parsed, quantile_ms

SCORE = ("http", "/v1/{domain}/score")
PAGE = """# TYPE vigil_request_seconds histogram
vigil_request_seconds_bucket{{le="0.001",route="/v1/{{domain}}/score",transport="http"}} {0}
vigil_request_seconds_bucket{{le="0.003",route="/v1/{{domain}}/score",transport="http"}} {1}
vigil_request_seconds_bucket{{le="+Inf",route="/v1/{{domain}}/score",transport="http"}} {2}
"""


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
def test_quantiles_are_right_within_two_percent(share: float) -> None:
    took_ms = np.random.default_rng(0).lognormal(1.0, 1.5, 20_000)
    made = Ledger()
    for each in took_ms.tolist():
        made.add("a", 5.0, each, failed=False)
    wanted = np.quantile(took_ms, share, method="inverted_cdf")
    assert made.between(0, 10).quantile_ms(share) == pytest.approx(wanted, rel=0.02)


def test_ledgers_of_several_processes_add_up_to_that_of_one() -> None:
    random = np.random.default_rng(1)
    one, parts = Ledger(), (Ledger(), Ledger())
    for i in range(2000):
        request = ("ab"[i % 2], float(random.integers(10)), float(random.exponential(20)), bool(random.random() < 0.1))
        one.add(*request)
        parts[i % 3 == 0].add(*request)
    whole = Ledger()
    for part in parts:
        whole.give(part.taken())
        assert part.kinds == []
    assert (whole.cells, whole.kinds) == (one.cells, ["a", "b"])


def test_nothing_answered_has_no_quantile() -> None:
    assert Cell(failed=3).quantile_ms(0.5) == math.inf


def test_a_services_quantiles_are_of_what_it_answered_in_between() -> None:
    before, after = parsed(PAGE.format(1000, 1000, 1000)), parsed(PAGE.format(1010, 1100, 1100))
    assert quantile_ms(before, after, SCORE, 0.1) == pytest.approx(1.0)
    assert quantile_ms(before, after, SCORE, 0.55) == pytest.approx(2.0)
    assert quantile_ms({}, parsed(PAGE.format(0, 0, 5)), SCORE, 0.5) == 3.0  # at least: beyond the last bound
    assert math.isnan(quantile_ms(after, after, SCORE, 0.5))
    assert math.isnan(quantile_ms(before, after, ("grpc", "Score"), 0.5))
