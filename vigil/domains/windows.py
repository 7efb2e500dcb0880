"""The kinds of features a domain can declare. Each names its operation; the kernel computes it.

An event at time `t` sees, of each of its entities, the records of earlier events (and those of the
same millisecond that came before it) with a time in `(t - window - delay, t - delay]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, ClassVar

from vigil.errors import ConfigError


class Category(IntEnum):
    """What a kind computes from."""

    EVENT = 0  # the event alone
    COMBINATION = 1  # earlier features of the event
    RECORDS = 2  # the records of a window
    NUMBERS = 3  # a number of theirs
    ABOVE = 4  # that number against what is usual
    LABELS = 5  # their labels


class Tally(IntEnum):
    """What several features may ask of the records of one window, which is then found once for all of them."""

    TOTAL = 0  # of a number
    LARGEST = 1
    SMALLEST = 2
    POSITIVES = 3  # how many records count as positive
    NEWEST_LABEL = 4  # which record is the newest with a label


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of the model's input: a float32 with a name and a meaning.

    A kind of feature is a subclass with an `op`, a `category` and a function in the kernel
    (docs/contributing/feature-kind.md).

    Args:
        name: the column's name.
        meaning: one line for people.
        empty: the value where there is nothing to compute from.
    """

    name: str
    meaning: str
    empty: float = 0.0
    op: ClassVar[str]
    """The kind's name in the hash of the spec."""
    category: ClassVar[Category]
    parameters: ClassVar[tuple[str, ...]] = ()
    """Names of fields with whole numbers that the kernel's function gets, in this order."""
    has_unit: ClassVar[bool] = False
    """Whether the kernel's function gives quanta of the number, which are then turned into its unit."""
    counts: ClassVar[bool] = False
    """Whether it counts records above usual; a longer window's count starts from that of a shorter one."""

    # What a kind of feature does not use stays at these.
    @property
    def entity(self) -> str:
        """The entity whose records it looks back on, or "" for none."""
        return ""

    @property
    def number_name(self) -> str:
        """The number it looks at, or "" for none."""
        return ""

    @property
    def carried(self) -> str:
        """The carried feature of the records it looks at, or ""."""
        return ""

    @property
    def most_carried(self) -> float:
        """The largest carried value of a record that counts as positive."""
        return 0.0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Features of the same event it is computed from: these are declared before it."""
        return ()

    @property
    def window(self) -> float:
        """Days of records it looks at."""
        return 0.0

    @property
    def delay(self) -> float:
        """Days before the event at which its window ends."""
        return 0.0

    @property
    def reach_days(self) -> float:
        """How far back it looks: window and delay."""
        return self.window + self.delay

    @property
    def counts_current(self) -> bool:
        """Whether the event itself counts as one of the records."""
        return False

    @property
    def defaults_to_current(self) -> bool:
        """Whether the event's own number takes the place of `empty`."""
        return False

    @property
    def multiple(self) -> float:
        """How many times its mean or usual value it compares records with."""
        return 0.0

    @property
    def tally(self) -> Tally | None:
        """What it asks of its window's records, if anything."""
        return None

    @property
    def looks_at_labels(self) -> bool:
        """Whether its value depends on labels."""
        return self.category is Category.LABELS

    def describe(self) -> dict[str, Any]:
        """All that decides its value, for the hash of the spec."""
        return {"op": self.op} | {k: v for k, v in asdict(self).items() if k != "meaning"}

    def check(self, entities: list[str], numbers: list[str], earlier: list[str]) -> None:
        """Refuses references to what is not declared (yet).

        Raises:
            ConfigError: naming the reference and what there is.
        """
        for value, known, what in (
            (self.entity, entities, "entity"),
            (self.number_name, numbers, "number"),
            *((name, earlier, "earlier feature") for name in self.inputs),
        ):
            if value and value not in known:
                raise ConfigError(f"{what} {value!r} is not declared; there are {', '.join(known) or 'none'}")


@dataclass(frozen=True, kw_only=True)
class Value(Feature):
    """The event's own number, in its unit."""

    number: str
    op = "VALUE"
    category = Category.EVENT
    has_unit = True

    @property
    def number_name(self) -> str:
        """Its only source."""
        return self.number


@dataclass(frozen=True, kw_only=True)
class Weekend(Feature):
    """1 on Saturday and Sunday (UTC), else 0."""

    op = "WEEKEND"
    category = Category.EVENT


@dataclass(frozen=True, kw_only=True)
class Night(Feature):
    """1 where the hour of day (UTC) is at most `last_hour`, else 0."""

    last_hour: int = 6
    op = "NIGHT"
    category = Category.EVENT
    parameters = ("last_hour",)


@dataclass(frozen=True, kw_only=True)
class _Window(Feature):
    """Looks back on an entity's records. `current`: the event itself counts as well."""

    of_entity: str
    window_days: float
    delay_days: float = 0.0
    current: bool = False
    category = Category.RECORDS

    @property
    def entity(self) -> str:
        """Of its records."""
        return self.of_entity

    @property
    def window(self) -> float:
        """As declared."""
        return self.window_days

    @property
    def delay(self) -> float:
        """As declared."""
        return self.delay_days

    @property
    def counts_current(self) -> bool:
        """As declared."""
        return self.current

    def check(self, entities: list[str], numbers: list[str], earlier: list[str]) -> None:
        """As for every feature; also that the window is one."""
        super().check(entities, numbers, earlier)
        if self.window_days <= 0 or self.delay_days < 0:
            raise ConfigError("window_days must be > 0 and delay_days >= 0")


@dataclass(frozen=True, kw_only=True)
class _NumberWindow(_Window):
    """`or_current`: the event's own value, rather than `empty`, where there is nothing to compute from."""

    number: str
    or_current: bool = False
    category = Category.NUMBERS
    has_unit = True
    asks: ClassVar[Tally | None] = None

    @property
    def number_name(self) -> str:
        """Of its records."""
        return self.number

    @property
    def defaults_to_current(self) -> bool:
        """As declared."""
        return self.or_current

    @property
    def tally(self) -> Tally | None:
        """The same for all features of its kind."""
        return self.asks


@dataclass(frozen=True, kw_only=True)
class Count(_Window):
    """How many records."""

    op = "COUNT"


@dataclass(frozen=True, kw_only=True)
class Sum(_NumberWindow):
    """Sum of a number, in its unit."""

    op = "SUM"
    asks = Tally.TOTAL


@dataclass(frozen=True, kw_only=True)
class Mean(_NumberWindow):
    """Mean of a number."""

    op = "MEAN"
    asks = Tally.TOTAL


@dataclass(frozen=True, kw_only=True)
class Std(_NumberWindow):
    """Sample standard deviation of a number (n - 1); `empty` below two records."""

    op = "STD"
    asks = Tally.TOTAL


@dataclass(frozen=True, kw_only=True)
class Max(_NumberWindow):
    """Largest value of a number."""

    op = "MAX"
    asks = Tally.LARGEST


@dataclass(frozen=True, kw_only=True)
class Min(_NumberWindow):
    """Smallest value of a number."""

    op = "MIN"
    asks = Tally.SMALLEST


@dataclass(frozen=True, kw_only=True)
class ZScore(_NumberWindow):
    """(current value - mean) / sample standard deviation; `empty` where the deviation is 0."""

    op = "ZSCORE"
    asks = Tally.TOTAL
    has_unit = False


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(_NumberWindow):
    """What is usual: the mean, then `rounds` times the mean of the values up to `times` the last result."""

    times: float = 2.5
    rounds: int = 2
    op = "TRIMMED_MEAN"
    asks = Tally.TOTAL
    parameters = ("rounds",)

    @property
    def multiple(self) -> float:
        """As declared."""
        return self.times


@dataclass(frozen=True, kw_only=True)
class Last(_NumberWindow):
    """The newest earlier value of a number within the window."""

    op = "LAST"


@dataclass(frozen=True, kw_only=True)
class Slope(_NumberWindow):
    """Least-squares slope of a number over time, in units a day; `empty` below two distinct times."""

    op = "SLOPE"
    asks = Tally.TOTAL


@dataclass(frozen=True, kw_only=True)
class SinceLast(_Window):
    """Seconds since the newest earlier record within the window."""

    op = "SINCE_LAST"


@dataclass(frozen=True, kw_only=True)
class Ratio(Feature):
    """numerator / denominator, both earlier features; `empty` where the denominator is 0."""

    numerator: str
    denominator: str
    op = "RATIO"
    category = Category.COMBINATION

    @property
    def inputs(self) -> tuple[str, ...]:
        """Both."""
        return self.numerator, self.denominator


@dataclass(frozen=True, kw_only=True)
class Difference(Feature):
    """left - right, both earlier features."""

    left: str
    right: str
    op = "DIFFERENCE"
    category = Category.COMBINATION

    @property
    def inputs(self) -> tuple[str, ...]:
        """Both."""
        return self.left, self.right


@dataclass(frozen=True, kw_only=True)
class _Above(_NumberWindow):
    """Compares records with `times` an earlier feature of the current event, `usual` (in the number's unit)."""

    usual: str
    times: float = 1.0
    category = Category.ABOVE
    has_unit = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is usual."""
        return (self.usual,)

    @property
    def multiple(self) -> float:
        """As declared."""
        return self.times


@dataclass(frozen=True, kw_only=True)
class CountAbove(_Above):
    """How many records are above `times` usual."""

    op = "COUNT_ABOVE"
    counts = True


@dataclass(frozen=True, kw_only=True)
class ShareAbove(_Above):
    """Share of the records that are above `times` usual."""

    op = "SHARE_ABOVE"
    counts = True


@dataclass(frozen=True, kw_only=True)
class LargestRatio(_Above):
    """Largest value over usual."""

    op = "LARGEST_RATIO"
    asks = Tally.LARGEST


@dataclass(frozen=True, kw_only=True)
class LargestExcess(_Above):
    """Largest value minus usual, in the number's unit."""

    op = "LARGEST_EXCESS"
    asks = Tally.LARGEST


@dataclass(frozen=True, kw_only=True)
class AgeOfFirstAbove(_Above):
    """Days since the first record above `times` usual."""

    op = "AGE_FIRST_ABOVE"
    counts = True


@dataclass(frozen=True, kw_only=True)
class _Labels(_Window):
    """Looks at labels. Only records older than `delay_days` count: younger labels are not known yet.

    `unexplained_by` names a carried feature: a positive record is then only one whose carried value
    was at most `at_most` (its own numbers did not give it away).
    """

    unexplained_by: str = ""
    at_most: float = 0.0
    category = Category.LABELS
    asks: ClassVar[Tally | None] = None

    @property
    def carried(self) -> str:
        """What would explain a positive record."""
        return self.unexplained_by

    @property
    def most_carried(self) -> float:
        """As declared."""
        return self.at_most

    @property
    def tally(self) -> Tally | None:
        """The same for all features of its kind."""
        return self.asks


@dataclass(frozen=True, kw_only=True)
class LabelCount(_Labels):
    """How many positive records."""

    op = "LABEL_COUNT"
    asks = Tally.POSITIVES


@dataclass(frozen=True, kw_only=True)
class LabelRate(_Labels):
    """Positive records over all records (unlabelled ones count as not positive)."""

    op = "LABEL_RATE"
    asks = Tally.POSITIVES


@dataclass(frozen=True, kw_only=True)
class LastLabel(_Labels):
    """Label of the newest labelled record: 1 or 0."""

    op = "LAST_LABEL"
    asks = Tally.NEWEST_LABEL


@dataclass(frozen=True, kw_only=True)
class AgeOfLabel(_Labels):
    """Days since a labelled record, `positive` or not: the last one, or the `first` of the window."""

    positive: bool
    first: bool = False
    op = "AGE_OF_LABEL"
    parameters = ("positive", "first")

    @property
    def tally(self) -> Tally | None:
        """Whether there is one to look for."""
        return Tally.POSITIVES if self.positive else Tally.NEWEST_LABEL


@dataclass(frozen=True, kw_only=True)
class Streak(_Labels):
    """How many positive records since the newest negative one; those explained are skipped."""

    op = "STREAK"
    asks = Tally.NEWEST_LABEL


@dataclass(frozen=True, kw_only=True)
class AgeOfStreak(_Labels):
    """Days since the first record of the streak."""

    op = "AGE_OF_STREAK"
    asks = Tally.NEWEST_LABEL


@dataclass(frozen=True, kw_only=True)
class LeastOfStreak(_Labels):
    """Smallest carried value in the streak, at most `empty`; it needs `unexplained_by`."""

    op = "LEAST_OF_STREAK"
    asks = Tally.NEWEST_LABEL

    def check(self, entities: list[str], numbers: list[str], earlier: list[str]) -> None:
        """As for every feature; also that there is a carried value to look at."""
        super().check(entities, numbers, earlier)
        if not self.unexplained_by:
            raise ConfigError("unexplained_by: got nothing, wanted the carried feature whose least value is meant")


def _kinds(base: type[Feature]) -> Iterator[type[Feature]]:
    for kind in base.__subclasses__():
        if "op" in vars(kind):
            yield kind
        yield from _kinds(kind)


KINDS: tuple[type[Feature], ...] = tuple(_kinds(Feature))
"""Every kind there is."""
CODES = {kind.op: number for number, kind in enumerate(KINDS)}
"""By which number the kernel knows a kind. Nothing but the kernel, compiled for these, depends on which it is."""
