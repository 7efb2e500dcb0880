"""How long batches take, learnt by size: what decides between the loop and a thread, and how much may wait."""

from __future__ import annotations

import math

SLOW_S = 1e-3  # the loop reads some 20 requests in this time: longer than that it should not stand still
FAST_S = SLOW_S / 2
UP, DOWN = 0.1, 0.5


class Pace:
    """Expected seconds of a batch, for each power of two of rows, and whether that is slow.

    A mean follows what is measured, upwards slowly (a batch that was interrupted says little) and downwards
    fast. A size becomes slow above `SLOW_S` and fast again below `FAST_S`. A size not yet seen is taken to
    be like the next smaller one.

    Args:
        warm_s: seconds of one row, as the warm-up measured it.
    """

    def __init__(self, warm_s: float) -> None:
        self._mean_s = [warm_s]
        self._expected_s = [warm_s]
        self._seen = [False]
        self._slow = [warm_s > SLOW_S]

    def expected_s(self, rows: int) -> float:
        """Seconds that a batch of `rows` is expected to take.

        Never more than twice as long as half as many: so a size that was interrupted once, and is refused
        since, comes back by what is measured of smaller ones.
        """
        return self._expected_s[min(rows.bit_length(), len(self._expected_s)) - 1]

    def most_s(self) -> float:
        """Seconds that no batch of a size seen is expected to exceed."""
        return max(self._expected_s)

    def slow(self, rows: int) -> bool:
        """Whether a batch of `rows` should leave the loop's thread."""
        return self._slow[min(rows.bit_length(), len(self._slow)) - 1]

    def observe(self, rows: int, seconds: float) -> None:
        """Takes in that a batch of `rows` took `seconds`."""
        size = rows.bit_length() - 1
        while size >= len(self._mean_s):
            self._mean_s.append(self._mean_s[-1])
            self._expected_s.append(self._mean_s[-1])
            self._seen.append(False)
            self._slow.append(self._slow[-1])
        mean_s = self._mean_s[size]
        mean_s += (seconds - mean_s) * (DOWN if seconds < mean_s else UP)
        self._mean_s[size] = mean_s
        self._slow[size] = mean_s > (FAST_S if self._slow[size] else SLOW_S)
        self._seen[size] = True
        bound_s = math.inf
        for i, each_s in enumerate(self._mean_s):
            self._expected_s[i] = min(each_s, bound_s)
            bound_s = 2 * (self._expected_s[i] if self._seen[i] else bound_s)
