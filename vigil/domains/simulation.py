"""Payments that never happened, by the process the Fraud Detection Handbook publishes ("Simulated dataset").

A `World` is drawn from a seed once; each of its days has random streams of its own. So any range of
days can be made alone and equals the same days of a longer range: a live feed goes on where the
history for training ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np

from vigil.errors import ConfigError

DAY_MS = 86_400_000
IDS_PER_DAY = 10_000_000
START = date(2018, 4, 1)
HISTORY_DAYS = 183

_SIDE, _RADIUS = 100.0, 5.0
_LARGE_AMOUNT = 220.0
_TERMINALS_A_DAY, _TERMINAL_DAYS = 2, 28
_CUSTOMERS_A_DAY, _CUSTOMER_DAYS, _CUSTOMER_SHARE, _CUSTOMER_FACTOR = 3, 14, 3, 5.0
_WORLD, _PAYMENTS, _TERMINAL_FRAUD, _CUSTOMER_FRAUD = range(4)  # a stream of random numbers each


@dataclass(frozen=True)
class Payments:
    """Generated payments as columns of length n, in order of time.

    Args:
        event_ids: int64[n], unique in the whole world.
        ts_ms: int64[n], epoch milliseconds UTC, ascending.
        customer: int64[n], 0 to customers - 1.
        terminal: int64[n], 0 to terminals - 1.
        amount: float64[n], whole cents, above 0.
        labels: int8[n], 1 for a fraud.
        scenarios: int8[n], 0 for no fraud, else the scenario 1 to 3 that made it one.
    """

    event_ids: np.ndarray
    ts_ms: np.ndarray
    customer: np.ndarray
    terminal: np.ndarray
    amount: np.ndarray
    labels: np.ndarray
    scenarios: np.ndarray

    @property
    def keys(self) -> dict[str, np.ndarray]:
        """The entities' keys by name."""
        return {"customer": self.customer, "terminal": self.terminal}

    @property
    def numbers(self) -> dict[str, np.ndarray]:
        """The measured values by name."""
        return {"amount": self.amount}


@dataclass
class _Raw:
    """Payments of some days before any compromise; `starts[i]` is the first row of day `first + i`."""

    first: int
    starts: np.ndarray
    second: np.ndarray
    customer: np.ndarray
    terminal: np.ndarray
    amount: np.ndarray

    def rows(self, day: int, end: int) -> slice:
        """The rows of the days [day, end)."""
        return slice(int(self.starts[day - self.first]), int(self.starts[end - self.first]))


class World:
    """Customers and terminals on a square, and what happens between them day by day.

    A customer pays at terminals within radius 5 of the square of 100 x 100: a Poisson number a day with
    a rate from U(0, 4), amounts normal around a mean from U(5, 100) with half of it as deviation
    (U(0, 2 mean) where negative), at seconds of the day N(43200, 20000). Frauds, a later rule
    overwriting an earlier: (1) amount > 220; (2) two terminals a day, for 28 days all their payments;
    (3) three customers a day, for 14 days a third of their payments, with five times the amount.

    Args:
        seed: decides everything.
        customers: how many customers there are.
        terminals: how many terminals there are.
        start: the date of day 0 (UTC).

    Raises:
        ConfigError: for sizes the process has no meaning for.
    """

    def __init__(self, seed: int, customers: int = 5000, terminals: int = 10000, start: date = START) -> None:
        if not _CUSTOMERS_A_DAY <= customers <= IDS_PER_DAY // 10 or terminals < _TERMINALS_A_DAY:
            raise ConfigError(
                f"world of {customers} customers and {terminals} terminals: "
                f"wanted {_CUSTOMERS_A_DAY} to {IDS_PER_DAY // 10} customers, at least {_TERMINALS_A_DAY} terminals"
            )
        self.seed, self.customers, self.terminals = seed, customers, terminals
        self.start_ms = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * 1000
        rng = self._stream(_WORLD)
        place = rng.uniform(0.0, _SIDE, (customers, 2))
        self._mean = rng.uniform(5.0, 100.0, customers)
        self._rate = rng.uniform(0.0, 4.0, customers)
        self._reach, self._reach_start = _reachable(place, rng.uniform(0.0, _SIDE, (terminals, 2)))

    def payments(self, first_day: int, days: int) -> Payments:
        """The payments of the days [first_day, first_day + days), the same whichever range they are part of.

        Raises:
            ConfigError: for a range before day 0 or without a day.
        """
        if first_day < 0 or days < 1:
            raise ConfigError(f"days from {first_day}, {days} of them: wanted a first day >= 0 and at least one day")
        last = first_day + days
        # A compromise that touches the range began up to 13 days before it and is drawn over all of its 14 days.
        raw = self._raw(max(0, first_day - _CUSTOMER_DAYS + 1), last + _CUSTOMER_DAYS - 1)
        scenarios = np.where(raw.amount > _LARGE_AMOUNT, 1, 0).astype(np.int8)
        for day in range(first_day, last):
            rows = raw.rows(day, day + 1)
            scenarios[rows][self._bad_terminals(day)[raw.terminal[rows]]] = 2
        for day in range(raw.first, last):
            rows_hit = self._hit_by_customers(raw, day)
            raw.amount[rows_hit] *= _CUSTOMER_FACTOR
            scenarios[rows_hit] = 3
        return self._columns(raw, scenarios, first_day, last)

    def _columns(self, raw: _Raw, scenarios: np.ndarray, first_day: int, last: int) -> Payments:
        rows = raw.rows(first_day, last)
        starts = raw.starts[first_day - raw.first : last - raw.first + 1]
        day = np.repeat(np.arange(first_day, last, dtype=np.int64), np.diff(starts))
        position = np.arange(rows.start, rows.stop, dtype=np.int64) - np.repeat(starts[:-1], np.diff(starts))
        chosen = scenarios[rows]
        return Payments(
            event_ids=day * IDS_PER_DAY + position,
            ts_ms=self.start_ms + day * DAY_MS + raw.second[rows] * 1000,
            customer=raw.customer[rows],
            terminal=raw.terminal[rows],
            amount=np.round(raw.amount[rows], 2),
            labels=(chosen > 0).astype(np.int8),
            scenarios=chosen,
        )

    def _raw(self, first: int, last: int) -> _Raw:
        days = [self._day(day) for day in range(first, last)]
        starts = np.concatenate(([0], np.cumsum([len(day[0]) for day in days]))).astype(np.int64)
        second, customer, terminal, amount = (np.concatenate(column) for column in zip(*days, strict=True))
        return _Raw(first, starts, second, customer, terminal, amount)

    def _day(self, day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Second of the day, customer, terminal and amount of one day's payments, in order of time."""
        rng = self._stream(_PAYMENTS, day)
        customer = np.repeat(np.arange(self.customers, dtype=np.int64), rng.poisson(self._rate))
        second = rng.normal(43_200.0, 20_000.0, len(customer)).astype(np.int64)
        mean = self._mean[customer]
        amount = rng.normal(mean, mean / 2)
        amount = np.where(amount < 0, rng.uniform(0.0, 2 * mean), amount)
        reach = self._reach_start[customer + 1] - self._reach_start[customer]
        choice = self._reach_start[customer] + (rng.random(len(customer)) * reach).astype(np.int64)
        # As published: what falls outside the day, or on a customer out of reach of any terminal, does not happen.
        happens = np.flatnonzero((second > 0) & (second < 86_400) & (reach > 0))
        happens = happens[np.argsort(second[happens], kind="stable")]
        cents = np.maximum(np.round(amount[happens], 2), 0.01)  # a payment of nothing is not an event
        return second[happens], customer[happens], self._reach[choice[happens]], cents

    def _bad_terminals(self, day: int) -> np.ndarray:
        """bool[terminals]: those compromised on `day` or in the 27 days before."""
        bad = np.zeros(self.terminals, bool)
        for begin in range(max(0, day - _TERMINAL_DAYS + 1), day + 1):
            rng = self._stream(_TERMINAL_FRAUD, begin)
            bad[rng.choice(self.terminals, _TERMINALS_A_DAY, replace=False)] = True
        return bad

    def _hit_by_customers(self, raw: _Raw, day: int) -> np.ndarray:
        """Rows of the payments made with the cards that were stolen on `day`."""
        rng = self._stream(_CUSTOMER_FRAUD, day)
        bad = np.zeros(self.customers, bool)
        bad[rng.choice(self.customers, _CUSTOMERS_A_DAY, replace=False)] = True
        rows = raw.rows(day, min(day + _CUSTOMER_DAYS, raw.first + len(raw.starts) - 1))
        pool = rows.start + np.flatnonzero(bad[raw.customer[rows]])
        return rng.choice(pool, len(pool) // _CUSTOMER_SHARE, replace=False) if len(pool) else pool

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def simulate(seed: int, first_day: int, days: int, customers: int = 5000, terminals: int = 10000) -> Payments:
    """Payments of the days [first_day, first_day + days) of the world of that seed; see `World`."""
    return World(seed, customers, terminals).payments(first_day, days)


def _reachable(customers: np.ndarray, terminals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Terminals within the radius of each customer: of customer c, `found[start[c] : start[c + 1]]`."""
    order = np.argsort(terminals[:, 0], kind="stable")
    x, y = terminals[order].T
    low, high = np.searchsorted(x, customers[:, 0] - _RADIUS), np.searchsorted(x, customers[:, 0] + _RADIUS)
    found = []
    for (cx, cy), a, b in zip(customers, low, high, strict=True):
        near = (x[a:b] - cx) ** 2 + (y[a:b] - cy) ** 2 < _RADIUS**2
        found.append(order[a:b][near])
    start = np.concatenate(([0], np.cumsum([len(near) for near in found]))).astype(np.int64)
    # One more, never drawn, so that a customer without any terminal still has an index to look up.
    return np.concatenate([*found, np.zeros(1, np.int64)]), start
