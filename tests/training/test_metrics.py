"""Measures, against examples small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics import by_scenario, calibration, card_precision, reliability, thresholds, unknown
from training.split import part
from vigil import domains
from vigil.domains.spec import DAY_MS
from vigil.features.history import History


def test_card_precision_ranks_cards_by_their_riskiest_payment_and_removes_those_found() -> None:
    # Day 1: cards by highest risk are A (.9, compromised), B (.8, not), C (.7, compromised): of the top 2, one.
    # Day 2: A is found and gone; C (.6, compromised) and B (.5, not) are the top 2: one of 2.
    day = np.array([1, 1, 1, 1, 2, 2, 2, 2])
    card = np.array(["A", "A", "B", "C", "A", "B", "C", "D"])
    y = np.array([0, 1, 0, 1, 1, 0, 1, 0])
    risk = np.array([0.9, 0.1, 0.8, 0.7, 0.95, 0.5, 0.6, 0.1])
    assert card_precision(day, card, y, risk, top=2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_card_precision_counts_missing_cards_as_misses() -> None:
    ones = np.ones(1)
    assert card_precision(ones, np.array(["A"]), ones, ones, top=4) == pytest.approx(1 / 4)


def test_a_card_is_known_once_the_label_of_its_fraud_has_arrived() -> None:
    # Delay 7, known from 7 days before: the test day 30 knows of frauds on days 16 to 22, day 31 to 23 as well.
    days = np.array([15, 16, 22, 23, 30, 30, 30, 30, 31, 31, 31, 31])
    cards = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])
    n = len(days)
    history = History(
        domain=domains.load("payments"),
        event_ids=np.arange(n),
        ts_ms=days * DAY_MS,
        keys={"customer": cards, "terminal": np.zeros(n, np.int64)},
        numbers={"amount": np.ones(n)},
        labels=np.array([1] * 4 + [0] * 8, np.int8),
    )
    kept = unknown(history, part(history, "test", 30, 32), "customer", delay_days=7, known_days=7)
    assert kept.tolist() == [True, False, False, True, True, False, False, False]


def test_reliability_and_its_error_follow_their_definition() -> None:
    y = np.array([0, 1, 1, 1])
    risk = np.array([0.1, 0.3, 0.9, 1.0])
    low, high = reliability(y, risk, bins=2)
    assert (low.events, low.risk, low.bad) == (2, pytest.approx(0.2), 0.5)
    assert (high.events, high.risk, high.bad) == (2, pytest.approx(0.95), 1.0)
    measured = calibration(y, risk, bins=2)
    assert measured["ece"] == pytest.approx((2 * 0.3 + 2 * 0.05) / 4)
    assert measured["brier"] == pytest.approx((0.01 + 0.49 + 0.01 + 0) / 4)


def test_thresholds_are_counted_in_money() -> None:
    policy = domains.load("payments").policy
    y = np.array([1, 0, 1, 0])
    risk = np.array([0.95, 0.6, 0.15, 0.001])
    money = np.array([100.0, 40.0, 60.0, 7.0])
    table = {row.risk: row for row in thresholds(y, risk, money, policy)}
    half = table[0.5]
    assert (half.events, half.precision, half.recall, half.saved) == (2, 0.5, 0.5, 100.0)
    assert half.review_net == pytest.approx(100 - 2 * policy.review_cost)
    assert half.block_net == pytest.approx(100 - policy.block_cost)
    assert {policy.review_at, policy.block_at} <= set(table)


def test_scenarios_are_measured_on_their_own_bad_events() -> None:
    policy = domains.load("payments").policy
    y = np.array([1, 1, 1, 0])
    scenario = np.array([1, 2, 2, 0])
    risk = np.array([policy.block_at, policy.review_at, 0.0, 1.0])
    first, second = by_scenario(y, risk, scenario, policy)
    assert (first["scenario"], first["events"], first["blocked"]) == (1, 1, 1.0)
    assert (second["events"], second["reviewed_or_blocked"], second["blocked"]) == (2, 0.5, 0.0)
