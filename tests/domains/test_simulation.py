"""The handbook's process: its numbers, and that any range of days is part of one world."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from vigil.domains.simulation import DAY_MS, Payments, World, simulate
from vigil.errors import ConfigError


@pytest.fixture(scope="module")
def month() -> Payments:
    return World(seed=3).payments(0, 60)


def joined(*parts: Payments) -> dict[str, np.ndarray]:
    return {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Payments)}


def test_days_made_in_two_parts_equal_the_days_made_at_once() -> None:
    world = World(seed=5, customers=400, terminals=800)
    whole = world.payments(0, 20)
    parts = joined(world.payments(0, 10), World(5, 400, 800).payments(10, 10))
    for name, column in parts.items():
        np.testing.assert_array_equal(column, getattr(whole, name), err_msg=name)


def test_a_single_later_day_equals_that_day_of_a_longer_history() -> None:
    whole, day = simulate(5, 0, 40, 400, 800), simulate(5, 31, 1, 400, 800)
    rows = whole.ts_ms // DAY_MS == day.ts_ms[0] // DAY_MS
    for name, column in joined(day).items():
        np.testing.assert_array_equal(column, getattr(whole, name)[rows], err_msg=name)


def test_the_same_seed_makes_the_same_payments_and_another_seed_makes_others() -> None:
    first, again, other = (simulate(seed, 0, 3, 200, 400) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.amount, again.amount)
    assert len(first.amount) != len(other.amount) or (first.amount != other.amount).any()


def test_payments_come_in_order_of_time_with_ids_of_their_own(month: Payments) -> None:
    assert (np.diff(month.ts_ms) >= 0).all()
    assert len(np.unique(month.event_ids)) == len(month.event_ids)
    assert month.ts_ms[0] >= 1_522_540_800_000  # 2018-04-01
    assert month.ts_ms[-1] < 1_522_540_800_000 + 60 * DAY_MS


def test_full_size_makes_about_9600_payments_a_day(month: Payments) -> None:
    assert 9_200 < len(month.amount) / 60 < 10_000


def test_amounts_are_whole_cents_above_zero(month: Payments) -> None:
    assert month.amount.min() >= 0.01
    np.testing.assert_allclose(month.amount * 100, np.rint(month.amount * 100), atol=1e-6)


def test_about_one_payment_in_125_is_a_fraud(month: Payments) -> None:
    later = month.ts_ms >= month.ts_ms[0] + 30 * DAY_MS  # the compromises have filled up
    assert 0.006 < month.labels[later].mean() < 0.012
    np.testing.assert_array_equal(month.labels, month.scenarios > 0)


def test_every_payment_over_220_is_a_fraud(month: Payments) -> None:
    assert (month.scenarios[month.amount > 220] > 0).all()
    assert (month.amount[month.scenarios == 1] > 220).all()


def test_a_compromised_terminal_has_only_frauds_for_28_days() -> None:
    payments = World(seed=3).payments(40, 1)
    bad = np.unique(payments.terminal[payments.scenarios == 2])
    assert 20 <= len(bad) <= 56  # 2 a day for 28 days, less those nobody paid at that day
    assert (payments.scenarios[np.isin(payments.terminal, bad)] > 0).all()


def test_stolen_cards_pay_a_third_of_the_time_and_five_times_as_much(month: Payments) -> None:
    stolen = month.scenarios == 3
    a_day = stolen[month.ts_ms >= month.ts_ms[0] + 30 * DAY_MS].sum() / 30
    assert 20 < a_day < 35  # 3 cards x 14 days x 1.92 payments / 3
    usual = month.amount[month.scenarios == 0].mean()
    assert 4 < month.amount[stolen].mean() / usual < 6


def test_a_range_before_day_zero_or_without_a_day_is_refused() -> None:
    world = World(seed=1, customers=50, terminals=50)
    with pytest.raises(ConfigError, match="first day >= 0"):
        world.payments(-1, 5)
    with pytest.raises(ConfigError, match="at least one day"):
        world.payments(0, 0)


def test_a_world_without_enough_customers_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 customers"):
        World(seed=1, customers=2)
