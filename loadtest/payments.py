"""Payments of the simulated world as they come in live: now, without end, a few customers far busier than the rest."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from vigil.domains.simulation import Payments, simulate

DAYS, CHUNK, SKEW = 7, 4096, 1.1


def payments(seed: int, skew: float = SKEW) -> Iterator[dict[str, Any]]:
    """Payments without end, each with an id of its own and the present time.

    Who is busy is the same for every seed: the k-th busiest customer makes a share proportional to 1 / k ** skew of
    the payments (Zipf). Where a customer pays, and what, is drawn from a week of theirs.

    Args:
        seed: decides which payments come, in what order.
        skew: 0: all customers alike.
    """
    week, shares = drawn_from(skew)
    run, random = os.urandom(4).hex(), np.random.default_rng(seed)
    for first in itertools.count(step=CHUNK):
        rows = np.searchsorted(shares, random.random(CHUNK) * shares[-1], side="right")
        columns = (week.customer[rows].tolist(), week.terminal[rows].tolist(), week.amount[rows].tolist())
        for number, (customer, terminal, amount) in enumerate(zip(*columns, strict=True), first):
            yield {
                "event_id": f"{run}-{number}",
                "ts": int(time.time() * 1000),
                "customer": customer,
                "terminal": terminal,
                "amount": amount,
            }


@cache
def drawn_from(skew: float) -> tuple[Payments, np.ndarray]:
    """A week, and the running sum of its payments' weights: made once, whoever asks."""
    week = simulate(0, 0, DAYS)
    return week, np.cumsum(weights(week.customer, skew))


def weights(customer: np.ndarray, skew: float) -> np.ndarray:
    """How often each payment is drawn, float64[n], by its customer, int64[n]: a customer's sum up to their share."""
    found, index, count = np.unique(customer, return_inverse=True, return_counts=True)
    place = 1 + np.random.default_rng(0).permutation(len(found))
    drawn: np.ndarray = (place**-skew / count)[index]
    return drawn
