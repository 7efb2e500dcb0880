"""The kinds of features a domain can declare. Each names its operation; the kernel computes it.

An event at time `t` sees, of each of its entities, the records of earlier events (and those of the
same millisecond that came before it) with a time in `(t - window - delay, t - delay]`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, ClassVar

from vigil.errors import ConfigError


class Op(IntEnum):
    """Operation codes, shared with the kernel."""

    VALUE = 0
    WEEKEND = 1
    NIGHT = 2
    COUNT = 3
    SUM = 4
    MEAN = 5
    STD = 6
    MAX = 7
    MIN = 8
    ZSCORE = 9
    TRIMMED_MEAN = 10
    RATIO = 11
    DIFFERENCE = 12
    COUNT_ABOVE = 13
    LARGEST_RATIO = 14
    LARGEST_EXCESS = 15
    SHARE_ABOVE = 16
    AGE_FIRST_ABOVE = 17
    LABEL_COUNT = 18
    LABEL_RATE = 19
    LAST_LABEL = 20
    AGE_OF_LABEL = 21
    STREAK = 22
    AGE_OF_STREAK = 23
    LEAST_OF_STREAK = 24
    SINCE_LAST = 25
    LAST = 26
    SLOPE = 27


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of the model's input: a float32 with a name and a meaning.

    Args:
        name: the column's name.
        meaning: one line for people.
        empty: the value where there is nothing to compute from.
    """

    name: str
    meaning: str
    empty: float = 0.0
    op: ClassVar[Op]

    # What a kind of feature does not use stays at these.
    @property
    def entity(self) -> str:
        """The entity whose records it looks back on, or "" for none."""
        return str(getattr(self, "of_entity", ""))

    @property
    def carried(self) -> str:
        """The carried feature of the records it looks at, or ""."""
        return str(getattr(self, "unexplained_by", ""))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Features of the same event it is computed from: these are declared before it."""
        return tuple(v for k in ("numerator", "denominator", "left", "right", "usual") if (v := getattr(self, k, "")))

    @property
    def delay(self) -> float:
        """Days before the event at which its window ends."""
        return float(getattr(self, "delay_days", 0.0))

    @property
    def reach_days(self) -> float:
        """How far back it looks: window and delay."""
        return float(getattr(self, "window_days", 0.0)) + self.delay

    @property
    def looks_at_labels(self) -> bool:
        """Whether its value depends on labels."""
        return isinstance(self, _Labels)

    def describe(self) -> dict[str, Any]:
        """All that decides its value, for the hash of the spec."""
        return {"op": self.op.name} | {k: v for k, v in asdict(self).items() if k != "meaning"}

    def check(self, entities: list[str], numbers: list[str], earlier: list[str]) -> None:
        """Refuses references to what is not declared (yet).

        Raises:
            ConfigError: naming the reference and what there is.
        """
        for value, known, what in (
            (self.entity, entities, "entity"),
            (str(getattr(self, "number", "")), numbers, "number"),
            *((name, earlier, "earlier feature") for name in self.inputs),
        ):
            if value and value not in known:
                raise ConfigError(f"{what} {value!r} is not declared; there are {', '.join(known) or 'none'}")
        if getattr(self, "window_days", 1.0) <= 0 or getattr(self, "delay_days", 0.0) < 0:
            raise ConfigError("window_days must be > 0 and delay_days >= 0")


@dataclass(frozen=True, kw_only=True)
class Value(Feature):
    """The event's own number, in its unit."""

    number: str
    op = Op.VALUE


@dataclass(frozen=True, kw_only=True)
class Weekend(Feature):
    """1 on Saturday and Sunday (UTC), else 0."""

    op = Op.WEEKEND


@dataclass(frozen=True, kw_only=True)
class Night(Feature):
    """1 where the hour of day (UTC) is at most `last_hour`, else 0."""

    last_hour: int = 6
    op = Op.NIGHT


@dataclass(frozen=True, kw_only=True)
class _Window(Feature):
    """Looks back on an entity's records. `current`: the event itself counts as well."""

    of_entity: str
    window_days: float
    delay_days: float = 0.0
    current: bool = False


@dataclass(frozen=True, kw_only=True)
class _NumberWindow(_Window):
    """`or_current`: the event's own value, rather than `empty`, where there is nothing to compute from."""

    number: str
    or_current: bool = False


@dataclass(frozen=True, kw_only=True)
class Count(_Window):
    """How many records."""

    op = Op.COUNT


@dataclass(frozen=True, kw_only=True)
class Sum(_NumberWindow):
    """Sum of a number, in its unit."""

    op = Op.SUM


@dataclass(frozen=True, kw_only=True)
class Mean(_NumberWindow):
    """Mean of a number."""

    op = Op.MEAN


@dataclass(frozen=True, kw_only=True)
class Std(_NumberWindow):
    """Sample standard deviation of a number (n - 1); `empty` below two records."""

    op = Op.STD


@dataclass(frozen=True, kw_only=True)
class Max(_NumberWindow):
    """Largest value of a number."""

    op = Op.MAX


@dataclass(frozen=True, kw_only=True)
class Min(_NumberWindow):
    """Smallest value of a number."""

    op = Op.MIN


@dataclass(frozen=True, kw_only=True)
class ZScore(_NumberWindow):
    """(current value - mean) / sample standard deviation; `empty` where the deviation is 0."""

    op = Op.ZSCORE


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(_NumberWindow):
    """What is usual: the mean, then `rounds` times the mean of the values up to `times` the last result."""

    times: float = 2.5
    rounds: int = 2
    op = Op.TRIMMED_MEAN


@dataclass(frozen=True, kw_only=True)
class Last(_NumberWindow):
    """The newest earlier value of a number within the window."""

    op = Op.LAST


@dataclass(frozen=True, kw_only=True)
class Slope(_NumberWindow):
    """Least-squares slope of a number over time, in units a day; `empty` below two distinct times."""

    op = Op.SLOPE


@dataclass(frozen=True, kw_only=True)
class SinceLast(_Window):
    """Seconds since the newest earlier record within the window."""

    op = Op.SINCE_LAST


@dataclass(frozen=True, kw_only=True)
class Ratio(Feature):
    """numerator / denominator, both earlier features; `empty` where the denominator is 0."""

    numerator: str
    denominator: str
    op = Op.RATIO


@dataclass(frozen=True, kw_only=True)
class Difference(Feature):
    """left - right, both earlier features."""

    left: str
    right: str
    op = Op.DIFFERENCE


@dataclass(frozen=True, kw_only=True)
class _Above(_NumberWindow):
    """Compares records with `times` an earlier feature of the current event, `usual` (in the number's unit)."""

    usual: str
    times: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CountAbove(_Above):
    """How many records are above `times` usual."""

    op = Op.COUNT_ABOVE


@dataclass(frozen=True, kw_only=True)
class ShareAbove(_Above):
    """Share of the records that are above `times` usual."""

    op = Op.SHARE_ABOVE


@dataclass(frozen=True, kw_only=True)
class LargestRatio(_Above):
    """Largest value over usual."""

    op = Op.LARGEST_RATIO


@dataclass(frozen=True, kw_only=True)
class LargestExcess(_Above):
    """Largest value minus usual, in the number's unit."""

    op = Op.LARGEST_EXCESS


@dataclass(frozen=True, kw_only=True)
class AgeOfFirstAbove(_Above):
    """Days since the first record above `times` usual."""

    op = Op.AGE_FIRST_ABOVE


@dataclass(frozen=True, kw_only=True)
class _Labels(_Window):
    """Looks at labels. Only records older than `delay_days` count: younger labels are not known yet.

    `unexplained_by` names a carried feature: a positive record is then only one whose carried value
    was at most `at_most` (its own numbers did not give it away).
    """

    unexplained_by: str = ""
    at_most: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LabelCount(_Labels):
    """How many positive records."""

    op = Op.LABEL_COUNT


@dataclass(frozen=True, kw_only=True)
class LabelRate(_Labels):
    """Positive records over all records (unlabelled ones count as not positive)."""

    op = Op.LABEL_RATE


@dataclass(frozen=True, kw_only=True)
class LastLabel(_Labels):
    """Label of the newest labelled record: 1 or 0."""

    op = Op.LAST_LABEL


@dataclass(frozen=True, kw_only=True)
class AgeOfLabel(_Labels):
    """Days since a labelled record, `positive` or not: the last one, or the `first` of the window."""

    positive: bool
    first: bool = False
    op = Op.AGE_OF_LABEL


@dataclass(frozen=True, kw_only=True)
class Streak(_Labels):
    """How many positive records since the newest negative one; those explained are skipped."""

    op = Op.STREAK


@dataclass(frozen=True, kw_only=True)
class AgeOfStreak(_Labels):
    """Days since the first record of the streak."""

    op = Op.AGE_OF_STREAK


@dataclass(frozen=True, kw_only=True)
class LeastOfStreak(_Labels):
    """Smallest carried value in the streak, at most `empty`; it needs `unexplained_by`."""

    op = Op.LEAST_OF_STREAK

    def check(self, entities: list[str], numbers: list[str], earlier: list[str]) -> None:
        """As for every feature; also that there is a carried value to look at."""
        super().check(entities, numbers, earlier)
        if not self.unexplained_by:
            raise ConfigError("unexplained_by: got nothing, wanted the carried feature whose least value is meant")
