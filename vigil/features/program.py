"""A domain's features as arrays of numbers: what the kernel runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.domains.spec import DAY_MS, Domain
from vigil.domains.windows import AgeOfLabel, Feature, Op

# Columns of `codes`.
OP, FRAME, COLUMN, CURRENT, LEFT, RIGHT, CARRIED, EXTRA, AT_MOST, TALLY, PREVIOUS = range(11)
# Columns of `tallies`, and the kinds there are.
T_KIND, T_FRAME, T_COLUMN, T_AT_MOST, T_PREVIOUS = range(5)
TOTAL, LARGEST, SMALLEST, POSITIVES, NEWEST_LABEL = range(5)
# Columns of `frames`.
F_ENTITY, F_DELAY_MS, F_WINDOW_MS = range(3)
# Columns of `params`.
TIMES, EMPTY, PER_UNIT = range(3)
# Entries of `limits` before those of each entity, and the entries of an entity.
ENTITIES, NUMBERS, GRACE_MS, FEEDBACK_MS, REPEAT_MS, MOST_REMEMBERED, MOST_REPEATS, PER_ENTITY = range(8)
KEEP_MS, MOST_RECORDS, WIDTH, AN_ENTITY = range(4)
# A record's columns before its numbers and carried features; a tag is the event's key with the label in its low bits.
TS, TAG, VALUES = range(3)
ANY = (1 << 63) - 1


@dataclass(frozen=True)
class Program:
    """The compiled form of a domain's features.

    Attributes:
        codes: int64 [F, 11], an operation a row; see the column names in this module.
        params: float64 [F, 3].
        frames: int64 [W, 3], the distinct windows: (entity, delay_ms, window_ms), sorted.
        tallies: int64 [T, 5], what several operations ask of a window, each found once; one of a longer window
            starts from that of a shorter one.
        carries: int64 [E, C], features carried by each entity's records, -1 where fewer.
        limits: int64, sizes and horizons in milliseconds, then (keep_ms, most_records, words a record) of each entity.
        reads: int64 [E, words], 1 for the columns of a record that are read through, which are fetched ahead.
    """

    codes: npt.NDArray[np.int64]
    params: npt.NDArray[np.float64]
    frames: npt.NDArray[np.int64]
    tallies: npt.NDArray[np.int64]
    carries: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    reads: npt.NDArray[np.int64]

    @property
    def scratch(self) -> int:
        """Words the kernel needs while it computes."""
        return 4 * len(self.carries) + 2 * len(self.frames) + len(self.tallies) + len(self.codes)

    def limit(self, entity: int, which: int) -> int:
        """An entry of an entity in `limits`: KEEP_MS, MOST_RECORDS or WIDTH."""
        return int(self.limits[PER_ENTITY + AN_ENTITY * entity + which])


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
        width = VALUES + len(domain.numbers) + len(entity.carries)
        limits += [round(domain.keep_days(entity.name) * DAY_MS), entity.most_records, width]
    frames = sorted({_frame(domain, feature) for feature in domain.features if feature.entity})
    rows = [_instruction(domain, feature, names, frames) for feature in domain.features]
    codes = np.array([codes for codes, _ in rows], np.int64)
    params = np.array([params for _, params in rows], np.float64)
    tallies = _share_tallies(codes, frames)
    _share_counts(codes, params, frames)
    return Program(
        codes=codes,
        params=params,
        frames=np.array(frames, np.int64).reshape(len(frames), 3),
        tallies=tallies,
        carries=carries,
        limits=np.array(limits, np.int64),
        reads=_reads(codes, frames, len(domain.entities), VALUES + len(domain.numbers) + most),
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
    # Where nothing is carried, each record is as explained as any: its tag takes part, and is at most anything.
    carried, at_most = TAG, ANY
    if feature.carried:
        owner = next(entity for entity in domain.entities if entity.name == feature.entity)
        carried = VALUES + len(numbers) + owner.carries.index(feature.carried)
        at_most = int(get("at_most", 0.0) * 1e6)
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
        at_most,
        -1,
        -1,
    ]
    per_unit = domain.numbers[column].per_unit if column >= 0 else 1.0
    return codes, [get("times", 0.0), feature.empty, per_unit]


_TALLIED = dict.fromkeys((Op.SUM, Op.MEAN, Op.STD, Op.ZSCORE, Op.TRIMMED_MEAN, Op.SLOPE), TOTAL)
_TALLIED |= dict.fromkeys((Op.MAX, Op.LARGEST_RATIO, Op.LARGEST_EXCESS), LARGEST) | {Op.MIN: SMALLEST}
_TALLIED |= dict.fromkeys((Op.LABEL_COUNT, Op.LABEL_RATE), POSITIVES)
_TALLIED |= dict.fromkeys((Op.LAST_LABEL, Op.STREAK, Op.AGE_OF_STREAK, Op.LEAST_OF_STREAK), NEWEST_LABEL)
_COUNTED = (Op.COUNT_ABOVE, Op.SHARE_ABOVE, Op.AGE_FIRST_ABOVE)


def _share_tallies(codes: npt.NDArray[np.int64], frames: list[tuple[int, int, int]]) -> npt.NDArray[np.int64]:
    """Finds what operations have in common, and writes into their codes where it stands."""
    wanted = {}
    for f, code in enumerate(codes.tolist()):
        kind = _TALLIED.get(code[OP])
        if code[OP] == Op.AGE_OF_LABEL:
            kind = POSITIVES if code[EXTRA] & 1 else NEWEST_LABEL
        if kind == POSITIVES:
            wanted[f] = (kind, code[CARRIED], code[AT_MOST], code[FRAME])
        elif kind == NEWEST_LABEL:
            wanted[f] = (kind, TAG, ANY, code[FRAME])
        elif kind is not None:
            wanted[f] = (kind, VALUES + code[COLUMN], ANY, code[FRAME])
    rows: list[list[int]] = []
    distinct = sorted(set(wanted.values()))
    for t, (kind, column, at_most, frame) in enumerate(distinct):
        before = distinct[t - 1] if t else None
        extends = before and before[:3] == (kind, column, at_most) and frames[before[3]][:2] == frames[frame][:2]
        rows.append([kind, frame, column, at_most, t - 1 if extends else -1])
    for f, tally in wanted.items():
        codes[f, TALLY] = distinct.index(tally)
    return np.array(rows, np.int64).reshape(len(rows), 5)


def _share_counts(
    codes: npt.NDArray[np.int64], params: npt.NDArray[np.float64], frames: list[tuple[int, int, int]]
) -> None:
    """Lets a count of what is above usual start from the count of an earlier feature's shorter window."""
    for f in range(len(codes)):
        if codes[f, OP] not in _COUNTED:
            continue
        for g in range(f):
            same = codes[g, OP] in _COUNTED and (codes[g, [COLUMN, LEFT]] == codes[f, [COLUMN, LEFT]]).all()
            mine, other = frames[codes[f, FRAME]], frames[codes[g, FRAME]]
            if same and params[g, TIMES] == params[f, TIMES] and mine[:2] == other[:2] and other[2] <= mine[2]:
                best = codes[f, PREVIOUS]
                if best < 0 or other[2] >= frames[codes[best, FRAME]][2]:
                    codes[f, PREVIOUS] = g


def _reads(
    codes: npt.NDArray[np.int64], frames: list[tuple[int, int, int]], entities: int, width: int
) -> npt.NDArray[np.int64]:
    reads = np.zeros((entities, width), np.int64)
    for code in codes.tolist():
        if code[FRAME] >= 0:
            mine = reads[frames[code[FRAME]][0]]
            mine[TS] = 1
            if code[COLUMN] >= 0:
                mine[VALUES + code[COLUMN]] = 1
            if Op.LABEL_COUNT <= code[OP] <= Op.LEAST_OF_STREAK:
                mine[[TAG, code[CARRIED]]] = 1
    return reads
