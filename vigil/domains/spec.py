"""What a domain is: one kind of event, declared once and used by training and serving alike.

Nothing here computes. The features of a domain are instances of the classes in
`vigil.domains.windows`; the kernel in `vigil.features` runs them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vigil.domains.windows import Feature
from vigil.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

DAY_MS = 86_400_000
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


@dataclass(frozen=True)
class Entity:
    """Something events happen to: it keeps a history of its events.

    Args:
        name: the event's field with its key (a string or an integer; 5 and "5" are one entity).
        carries: features of the event (of entities declared earlier) that are kept with its record,
            in millionths, for features of this entity to look back on.
        most_records: the newest records kept; older ones go even if a window would still hold them,
            which bounds memory and time for an entity that is hit by everyone.
        aliases: other column names under which history files may hold it.
    """

    name: str
    carries: tuple[str, ...] = ()
    most_records: int = 4096
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Number:
    """A measured value of the event, kept in whole multiples of `quantum` so that sums are exact.

    Args:
        name: the event's field.
        unit: what it is measured in, for people.
        quantum: the smallest step that counts (0.01: cents); values are rounded to it.
        above: exclusive lower bound, if any.
        at_least: inclusive lower bound, if any.
        at_most: inclusive upper bound.
        aliases: other column names under which history files may hold it.
    """

    name: str
    unit: str
    quantum: float = 0.01
    above: float | None = None
    at_least: float | None = None
    at_most: float = 1e9
    aliases: tuple[str, ...] = ()

    @property
    def per_unit(self) -> float:
        """Quanta in one unit: the factor from the event's value to the whole number that is kept."""
        return 1.0 / self.quantum

    @property
    def wanted(self) -> str:
        """What a valid value is, in words."""
        low = f" > {self.above:g}" if self.above is not None else ""
        low += f" >= {self.at_least:g}" if self.at_least is not None else ""
        return f"a finite number{low} and <= {self.at_most:g} ({self.unit})".replace("number and", "number")


@dataclass(frozen=True)
class Reason:
    """Why a risky event is risky: `code`, which means `meaning`, where `feature` is `above` (`below`) its limit."""

    code: str
    feature: str
    meaning: str
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Rules:
    """The tier that needs no model: limits, and a line whose value is the risk.

    `risk = clip(slope * value + intercept, 0, 1)`, high above `threshold`; over `limit`: risk 1.
    """

    number: str
    limit: float
    slope: float
    intercept: float
    threshold: float


@dataclass(frozen=True)
class Policy:
    """From risk to action, with what errors cost.

    Args:
        actions: what is done, from harmless to severe.
        review_at: risk from which a person looks.
        block_at: risk from which the event is stopped.
        reasons: candidates for the reasons of a decision, strongest first.
        rules: the tier without a model.
        money: the number that is lost when a bad event is let through.
        review_cost: what one look of a person costs, in the unit of `money`.
        block_cost: what stopping a good event costs, in the same unit.
    """

    review_at: float
    block_at: float
    rules: Rules
    money: str
    review_cost: float
    block_cost: float
    actions: tuple[str, str, str] = ("approve", "review", "block")
    reasons: tuple[Reason, ...] = ()

    @cached_property
    def version(self) -> str:
        """Twelve hex digits that change with any part of the policy."""
        return _digest(asdict(self))[:12]


@dataclass(frozen=True)
class Domain:
    """One kind of event: schema, entities, features and policy.

    Args:
        name: as in `/v1/{name}/score` and in the model store.
        entities: whom events happen to, in the order their features are computed.
        numbers: measured values of an event.
        features: the model's input, in this order.
        policy: from risk to decision.
        label_delay_days: how long after an event its true label is known; training leaves this gap,
            and no feature may look at younger labels.
        grace_days: how late an event may come and still count, exactly.
        feedback_days: how long an event waits for its label (and a label for its event).
        repeat_days: how long a repeated event gets the very same features as the first time.
        most_remembered: the newest events that labels can find, which bounds memory (48 bytes each, with two entities
            and a number).
        most_repeats: the newest events whose features are kept for repeats (4 bytes a feature).
        example: a valid event, for documentation and warm-up.
        aliases: other column names of `event_id`, `ts`, `label` and `scenario` in history files.
        simulate: makes events for demonstrations and tests (see `vigil.domains.simulation`), if any.
    """

    name: str
    entities: tuple[Entity, ...]
    numbers: tuple[Number, ...]
    features: tuple[Feature, ...]
    policy: Policy
    label_delay_days: float
    example: dict[str, Any]
    grace_days: float = 1.0
    feedback_days: float = 60.0
    repeat_days: float = 7.0
    most_remembered: int = 1 << 21
    most_repeats: int = 1 << 17
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    simulate: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of the model's input, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def spec_hash(self) -> str:
        """SHA-256 of all that decides a feature's value; a model made for another hash is refused."""
        return _digest(
            {
                "entities": [asdict(entity) | {"aliases": None} for entity in self.entities],
                "numbers": [[number.name, number.quantum] for number in self.numbers],
                "features": [feature.describe() for feature in self.features],
                "grace_days": self.grace_days,
            }
        )

    @property
    def grace_ms(self) -> int:
        """`grace_days` in milliseconds."""
        return round(self.grace_days * DAY_MS)

    def keep_days(self, entity: str) -> float:
        """Days of history that the features of `entity` look back on, delay and grace included."""
        spans = [feature.reach_days for feature in self.features if feature.entity == entity]
        return max(spans, default=0.0) + self.grace_days

    def number(self, name: str) -> Number:
        """The declared number of that name; ConfigError where there is none."""
        return self.numbers[_position(name, [number.name for number in self.numbers], "number")]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _position(name: str, known: list[str], what: str) -> int:
    if name not in known:
        raise ConfigError(f"{what} {name!r} is not declared; there are {', '.join(known) or 'none'}")
    return known.index(name)


def _check(domain: Domain) -> None:
    """Refuses a declaration that contradicts itself, naming the part."""
    for part in ("entities", "numbers", "features"):
        if not isinstance(given := getattr(domain, part), tuple):
            got = type(given).__name__
            raise ConfigError(f"domain {domain.name!r}: {part}: got the type {got}, wanted a tuple, such as (one,)")
    entities = [entity.name for entity in domain.entities]
    numbers = [number.name for number in domain.numbers]
    fields = ["event_id", "ts", *entities, *numbers]
    for name in [domain.name, *fields, *domain.feature_names]:
        if not _NAME.match(name):
            raise ConfigError(f"domain {domain.name!r}: {name!r} is not a name (lower case, digits, underscores)")
    if not entities or not numbers or not domain.features:
        raise ConfigError(f"domain {domain.name!r} needs at least one entity, one number and one feature")
    for names, what in ((fields, "field"), (list(domain.feature_names), "feature")):
        if len(set(names)) != len(names):
            raise ConfigError(f"domain {domain.name!r} declares a {what} twice: {sorted(names)}")
    earlier: list[str] = []
    for feature in domain.features:
        try:
            feature.check(entities, numbers, earlier)
            if feature.looks_at_labels and feature.delay < domain.label_delay_days:
                raise ConfigError(
                    f"delay_days must be at least the domain's label_delay_days {domain.label_delay_days:g}"
                )
            if feature.entity and feature.carried:
                owner = domain.entities[entities.index(feature.entity)]
                _position(feature.carried, list(owner.carries), f"{feature.entity}.carries")
        except ConfigError as failure:
            raise ConfigError(f"domain {domain.name!r}, feature {feature.name!r}: {failure}") from None
        earlier.append(feature.name)
    for entity in domain.entities:
        for carried in entity.carries:
            _position(carried, earlier, f"domain {domain.name!r}: feature carried by {entity.name}")
    if not 0 < domain.policy.review_at <= domain.policy.block_at <= 1:
        raise ConfigError(f"domain {domain.name!r}: policy needs 0 < review_at <= block_at <= 1")
    for reason in domain.policy.reasons:
        _position(reason.feature, earlier, f"domain {domain.name!r}: feature of reason {reason.code}")
    for name in (domain.policy.money, domain.policy.rules.number):
        domain.number(name)
    if set(domain.example) != set(fields):
        raise ConfigError(
            f"domain {domain.name!r}: example has the fields {', '.join(domain.example)}, wanted {', '.join(fields)}"
        )


def quantise(values: np.ndarray, number: Number) -> np.ndarray:
    """`values` (float64, in units) as whole quanta (int64), rounded half to even, as live events are."""
    import numpy as np

    return np.rint(np.asarray(values, np.float64) * number.per_unit).astype(np.int64)
