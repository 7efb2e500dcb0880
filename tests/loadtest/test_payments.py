"""Payments for a load test: like a bank's, with hot keys."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import pytest

from loadtest.payments import payments
from vigil import domains
from vigil.domains.schema import Schema

COUNT = 20_000


def test_they_are_events_of_the_domain_of_now_with_ids_of_their_own() -> None:
    made = list(islice(payments(0), COUNT))
    assert len({each["event_id"] for each in (*made, *islice(payments(0), COUNT))}) == 2 * COUNT
    assert abs(made[-1]["ts"] - time.time() * 1000) < 60_000
    assert Schema(domains.load("payments")).make(made[0])


def test_a_few_customers_are_far_busier_than_the_rest_and_always_the_same() -> None:
    counts = [Counter(each["customer"] for each in islice(payments(seed), COUNT)) for seed in (1, 2)]
    busiest = [count.most_common(1)[0] for count in counts]
    assert busiest[0][0] == busiest[1][0]
    share = 1 / sum(k**-1.1 for k in range(1, 5001))
    for _, seen in busiest:
        assert seen / COUNT == pytest.approx(share, rel=0.15)


def test_without_skew_nobody_is() -> None:
    counts = Counter(each["customer"] for each in islice(payments(0, skew=0), COUNT))
    assert counts.most_common(1)[0][1] < 30
