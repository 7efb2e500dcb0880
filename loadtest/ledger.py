"""What became of requests, by kind of caller and second they were due in; ledgers of several processes add up."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

STEPS = 32  # bins between a time and its double: times are right within 1.1%


@dataclass
class Cell:
    """Requests of a second: times of those answered well, counted by bin; how many failed."""

    times: Counter[int] = field(default_factory=Counter)
    failed: int = 0

    @property
    def good(self) -> int:
        """How many were answered well."""
        return self.times.total()

    def add(self, other: Cell) -> None:
        """Takes another's in."""
        self.times.update(other.times)
        self.failed += other.failed

    def quantile_ms(self, share: float) -> float:
        """Milliseconds within which that share of the good ones was answered; infinite where there are none."""
        left = share * self.good
        for step in sorted(self.times):
            left -= self.times[step]
            if left <= 0:
                return float(2 ** ((step + 0.5) / STEPS) / 1000)
        return math.inf


class Ledger:
    """Cells by kind and second (epoch)."""

    def __init__(self) -> None:
        self.cells: defaultdict[tuple[str, int], Cell] = defaultdict(Cell)

    def add(self, kind: str, due_s: float, took_ms: float, failed: bool) -> None:
        """A request that was due at an epoch second."""
        cell = self.cells[kind, int(due_s)]
        if failed:
            cell.failed += 1
        else:
            cell.times[math.floor(math.log2(max(took_ms * 1000, 1.0)) * STEPS)] += 1

    def between(self, start: int, end: int, kind: str = "") -> Cell:
        """All that was due from the second `start` to before the second `end`; of one kind, or of all."""
        whole = Cell()
        for (of, second), cell in self.cells.items():
            if start <= second < end and kind in ("", of):
                whole.add(cell)
        return whole

    @property
    def kinds(self) -> list[str]:
        """Those there are, in order."""
        return sorted({kind for kind, _ in self.cells})

    def taken(self) -> list[Any]:
        """Everything, as lists that can be sent; the ledger is empty then."""
        rows = [[kind, second, cell.failed, list(cell.times.items())] for (kind, second), cell in self.cells.items()]
        self.cells.clear()
        return rows

    def give(self, rows: Iterable[Any]) -> None:
        """Takes in what another's :meth:`taken` gave."""
        for kind, second, failed, times in rows:
            self.cells[kind, second].add(Cell(Counter(dict(times)), failed))
