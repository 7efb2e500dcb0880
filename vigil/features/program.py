"""A domain's features as arrays of numbers: what the kernel runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.domains.spec import DAY_MS, Domain
from vigil.domains.windows import AgeOfLabel, Feature

# Columns of `codes`.
OP, FRAME, COLUMN, CURRENT, LEFT, RIGHT, CARRIED, EXTRA = range(8)
# Columns of `frames`.
F_ENTITY, F_DELAY_MS, F_WINDOW_MS = range(3)
# Columns of `params`.
TIMES, EMPTY, PER_UNIT = range(3)
# Entries of `limits` before those of each entity.
ENTITIES, NUMBERS, GRACE_MS, FEEDBACK_MS, REPEAT_MS, MOST_REMEMBERED, MOST_REPEATS, PER_ENTITY = range(8)
# A record's columns before its numbers and carried features.
TS, KEY, LABEL, VALUES = range(4)


@dataclass(frozen=True)
class Program:
    """The compiled form of a domain's features.

    Attributes:
        codes: int64 [F, 8], an operation a row; see the column names in this module.
        params: float64 [F, 3].
        frames: int64 [W, 3], the distinct windows: (entity, delay_ms, window_ms), sorted.
        carries: int64 [E, C], features carried by each entity's records, -1 where fewer.
        limits: int64, sizes and horizons in milliseconds, then (keep_ms, most_records) of each entity.
        width: int64 words of a record.
    """

    codes: npt.NDArray[np.int64]
    params: npt.NDArray[np.float64]
    frames: npt.NDArray[np.int64]
    carries: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    width: int


def compile_features(domain: Domain) -> Program:
    """Translates the declared features into the kernel's program."""
    names = list(domain.feature_names)
    most = max(1, *(len(entity.carries) for entity in domain.entities))
    carries = np.full((len(domain.entities), most), -1, np.int64)
    for e, entity in enumerate(domain.entities):
        carries[e, : len(entity.carries)] = [names.index(name) for name in entity.carries]
    limits = [len(domain.entities), len(domain.numbers)]
    limits += [round(days * DAY_MS) for days in (domain.grace_days, domain.feedback_days, domain.repeat_days)]
    limits += [domain.most_remembered, domain.most_repeats]
    for entity in domain.entities:
        limits += [round(domain.keep_days(entity.name) * DAY_MS), entity.most_records]
    frames = sorted({_frame(domain, feature) for feature in domain.features if feature.entity})
    rows = [_instruction(domain, feature, names, frames) for feature in domain.features]
    return Program(
        codes=np.array([codes for codes, _ in rows], np.int64),
        params=np.array([params for _, params in rows], np.float64),
        frames=np.array(frames, np.int64).reshape(len(frames), 3),
        carries=carries,
        limits=np.array(limits, np.int64),
        width=VALUES + len(domain.numbers) + most,
    )


def _frame(domain: Domain, feature: Feature) -> tuple[int, int, int]:
    entity = [entity.name for entity in domain.entities].index(feature.entity)
    return entity, round(feature.delay * DAY_MS), round((feature.reach_days - feature.delay) * DAY_MS)


def _instruction(
    domain: Domain, feature: Feature, names: list[str], frames: list[tuple[int, int, int]]
) -> tuple[list[int], list[float]]:
    def get(key: str, default: Any) -> Any:
        return getattr(feature, key, default)

    numbers = [number.name for number in domain.numbers]
    column = numbers.index(feature.number) if get("number", "") else -1  # type: ignore[attr-defined]
    inputs = [names.index(name) for name in feature.inputs] + [-1, -1]
    carried = -1
    if feature.carried:
        owner = next(entity for entity in domain.entities if entity.name == feature.entity)
        carried = VALUES + len(numbers) + owner.carries.index(feature.carried)
    extra = get("last_hour", 0) or get("rounds", 0)
    if isinstance(feature, AgeOfLabel):
        extra = feature.positive + 2 * feature.first
    codes = [
        int(feature.op),
        frames.index(_frame(domain, feature)) if feature.entity else -1,
        column,
        int(get("current", False)) + 2 * int(get("or_current", False)),
        inputs[0],
        inputs[1],
        carried,
        extra,
    ]
    per_unit = domain.numbers[column].per_unit if column >= 0 else 1.0
    times = get("at_most", 0.0) if feature.carried else get("times", 0.0)
    return codes, [times, feature.empty, per_unit]
