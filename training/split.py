"""A history cut by time: train, wait for the labels, validate, wait again, test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from vigil.domains.spec import DAY_MS
from vigil.errors import DataError
from vigil.features.history import History


@dataclass(frozen=True)
class Part:
    """The labelled events of the days [first_day, end_day), days counted from the epoch (UTC).

    Args:
        rows: int64[m], positions in the history, ascending.
    """

    name: str
    first_day: int
    end_day: int
    rows: np.ndarray

    @property
    def dates(self) -> str:
        """First and last day, as dates."""
        return f"{date_of(self.first_day)} to {date_of(self.end_day - 1)}"


@dataclass(frozen=True)
class Split:
    """Three parts in order of time, with at least `gap_days` between one and the next."""

    train: Part
    valid: Part
    test: Part
    gap_days: int

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        """The three parts, earliest first."""
        return self.train, self.valid, self.test


def date_of(day: int) -> str:
    """The date of a day counted from the epoch."""
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()


def days_of(history: History) -> np.ndarray:
    """int64[n]: the day of each event, counted from the epoch (UTC)."""
    return history.ts_ms // DAY_MS


def part(history: History, name: str, first_day: int, end_day: int) -> Part:
    """The labelled events of [first_day, end_day)."""
    low, high = np.searchsorted(history.ts_ms, [first_day * DAY_MS, end_day * DAY_MS])
    rows = low + np.flatnonzero(history.labels[low:high] >= 0)
    return Part(name, first_day, end_day, rows)


def by_time(history: History, train_days: int = 28, valid_days: int = 14, test_days: int = 7) -> Split:
    """Cuts the end of a history into train, gap, validation, gap, test; the gap is the domain's label delay.

    What lies before the training days only fills the windows of the features. A history too short for
    the days asked for gets validation and test of an eighth of its span, and trains on what is left.

    Raises:
        DataError: where it is too short for that, or a part lacks events of one label.
    """
    gap = int(np.ceil(history.domain.label_delay_days))
    first, end = int(history.ts_ms[0] // DAY_MS), int(history.ts_ms[-1] // DAY_MS) + 1
    span = end - first
    valid_days, test_days = min(valid_days, span // 8), min(test_days, span // 8)
    train_days = min(train_days, span - valid_days - test_days - 2 * gap)
    if min(train_days, valid_days, test_days) < 1:
        raise DataError(
            f"the history spans {span} days ({date_of(first)} to {date_of(end - 1)}), "
            f"wanted at least {_shortest(gap)}: train, {gap} days of label delay, validate, {gap} days, test"
        )
    test_first = end - test_days
    valid_first = test_first - gap - valid_days
    train_first = valid_first - gap - train_days
    split = Split(
        part(history, "train", train_first, train_first + train_days),
        part(history, "validation", valid_first, valid_first + valid_days),
        part(history, "test", test_first, end),
        gap,
    )
    for each in split.parts:
        refuse_one_sided(history, each)
    return split


def refuse_one_sided(history: History, part: Part) -> None:
    """Raises DataError where a part has no bad or no good event: nothing can be learned or measured there."""
    bad = int(history.labels[part.rows].sum())
    if not 0 < bad < len(part.rows):
        raise DataError(
            f"{part.name} ({part.dates}) has {len(part.rows)} labelled events, {bad} of them bad: wanted some of both"
        )


def _shortest(gap: int) -> int:
    span = 8
    while span - 2 * (span // 8) - 2 * gap < 1:
        span += 1
    return span
