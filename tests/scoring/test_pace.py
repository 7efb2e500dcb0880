"""The laws of what counts as slow."""

from __future__ import annotations

from vigil.scoring.pace import FAST_S, SLOW_S, Pace


def test_the_warm_up_decides_until_something_else_is_measured() -> None:
    assert not Pace(SLOW_S / 2).slow(1000)
    assert Pace(2 * SLOW_S).slow(1000)


def test_one_interruption_does_not_make_a_fast_model_slow() -> None:
    pace = Pace(1e-5)
    pace.observe(1, 5 * SLOW_S)
    assert not pace.slow(1)


def test_what_stays_slow_becomes_slow_and_what_stays_fast_fast_again() -> None:
    pace = Pace(1e-5)
    for _ in range(20):
        pace.observe(1, 2 * SLOW_S)
    assert pace.slow(1)
    for _ in range(20):
        pace.observe(1, FAST_S / 2)
    assert not pace.slow(1)


def test_between_the_two_bounds_nothing_changes() -> None:
    fast, slow = Pace(FAST_S), Pace(2 * SLOW_S)
    for _ in range(100):
        fast.observe(1, 1.5 * FAST_S)
        slow.observe(1, 1.5 * FAST_S)
    assert not fast.slow(1)
    assert slow.slow(1)


def test_large_batches_are_slow_without_making_small_ones_so() -> None:
    pace = Pace(1e-5)
    for _ in range(50):
        pace.observe(1, 1e-5)
        pace.observe(1000, 3 * SLOW_S)
    assert pace.slow(1000)
    assert not pace.slow(1)


def test_a_size_not_yet_seen_is_like_the_next_smaller_one() -> None:
    pace = Pace(1e-5)
    for _ in range(50):
        pace.observe(64, 3 * SLOW_S)
    assert pace.slow(5000)
    assert pace.expected_s(5000) == pace.expected_s(64)
    assert not pace.slow(63)


def test_a_batch_is_never_expected_to_take_longer_than_two_of_half_its_size() -> None:
    pace = Pace(1e-5)
    pace.observe(64, 5.0)
    assert pace.expected_s(64) > SLOW_S / 10
    pace.observe(32, 1e-4)
    assert pace.expected_s(64) == 2 * pace.expected_s(32)
