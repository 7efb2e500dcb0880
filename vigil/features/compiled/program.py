"""A domain's features as one array of numbers: what the kernel runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vigil.domains.spec import Domain
from vigil.domains.windows import CODES as KINDS
from vigil.domains.windows import Category, Feature, Tally
from vigil.features.compiled.layout import (
    AN_ENTITY,
    ANY,
    AT_MOST,
    CARRIED,
    CATEGORY,
    COLUMN,
    COUNTS,
    CURRENT,
    DAY_MS,
    DIVISOR,
    EMPTY,
    FRAME,
    KEEP_MS,
    LEFT,
    MILLIONTHS,
    MOST_RECORDS,
    MOST_WHOLE,
    OP,
    OR_CURRENT,
    P_HEAD,
    PARTS,
    PER_ENTITY,
    PER_UNIT,
    PREVIOUS,
    RIGHT,
    TAG,
    TALLY,
    TIMES,
    TS,
    VALUES,
    WHOLE,
    WIDTH,
)

Words = npt.NDArray[np.int64]
Frame = tuple[int, int, int]


@dataclass(frozen=True)
class Program:
    """The compiled form of a domain's features.

    Attributes:
        words: int64, the parts that `layout.py` names, one after the other.
        scratch: words that the kernel needs while it computes.
        keep_ms, most_records, widths: int64 [E], of each entity: how long it keeps records, how many, words of each.
    """

    words: Words
    scratch: int
    keep_ms: Words
    most_records: Words
    widths: Words


def compile_features(domain: Domain) -> Program:
    """Translates the declared features into the kernel's program."""
    most = max(1, *(len(entity.carries) for entity in domain.entities))
    frames = sorted({_frame(domain, feature) for feature in domain.features if feature.entity})
    codes = np.array([_codes(domain, feature, frames) for feature in domain.features], np.int64)
    params = np.array([_params(domain, feature) for feature in domain.features], np.float64)
    tallies = _share_tallies(domain, codes, frames)
    _share_counts(codes, params, frames)
    limits = _limits(domain)
    of_entities = limits[PER_ENTITY:].reshape(-1, AN_ENTITY)
    reads = _reads(domain, codes, VALUES + len(domain.numbers) + most)
    frame_rows = np.array(frames, np.int64).reshape(len(frames), 3)
    parts = (codes, params.view(np.int64), frame_rows, tallies, _carries(domain, most), limits.reshape(1, -1), reads)
    return Program(
        words=_join(parts),
        scratch=4 * len(domain.entities) + 2 * len(frames) + len(tallies) + 2 * len(codes),
        keep_ms=of_entities[:, KEEP_MS].copy(),
        most_records=of_entities[:, MOST_RECORDS].copy(),
        widths=of_entities[:, WIDTH].copy(),
    )


def _join(parts: tuple[Words, ...]) -> Words:
    at, head = PARTS * P_HEAD, list[int]()
    for part in parts:
        head += [at, *part.shape]
        at += part.size
    return np.concatenate([np.array(head, np.int64), *(part.reshape(-1) for part in parts)])


def _carries(domain: Domain, most: int) -> Words:
    """Features that the records of each entity carry, int64 [E, most], -1 where fewer."""
    carries = np.full((len(domain.entities), most), -1, np.int64)
    for e, entity in enumerate(domain.entities):
        carries[e, : len(entity.carries)] = [domain.feature_names.index(name) for name in entity.carries]
    return carries


def _limits(domain: Domain) -> Words:
    limits = [len(domain.entities), len(domain.numbers)]
    limits += [round(days * DAY_MS) for days in (domain.grace_days, domain.feedback_days, domain.repeat_days)]
    limits += [domain.most_remembered, domain.most_repeats]
    for entity in domain.entities:
        width = VALUES + len(domain.numbers) + len(entity.carries)
        limits += [round(domain.keep_days(entity.name) * DAY_MS), entity.most_records, width]
    return np.array(limits, np.int64)


def _entity(domain: Domain, feature: Feature) -> int:
    return [entity.name for entity in domain.entities].index(feature.entity)


def _frame(domain: Domain, feature: Feature) -> Frame:
    """A window: entity, delay_ms, window_ms."""
    return _entity(domain, feature), round(feature.delay * DAY_MS), round((feature.reach_days - feature.delay) * DAY_MS)


def _column(domain: Domain, feature: Feature) -> int:
    names = [number.name for number in domain.numbers]
    return names.index(feature.number_name) if feature.number_name else -1


def _codes(domain: Domain, feature: Feature, frames: list[Frame]) -> list[int]:
    codes = [-1] * (WHOLE + MOST_WHOLE)
    codes[OP], codes[CATEGORY] = KINDS[feature.op], int(feature.category)
    codes[FRAME] = frames.index(_frame(domain, feature)) if feature.entity else -1
    codes[COLUMN] = _column(domain, feature)
    codes[CURRENT], codes[OR_CURRENT] = int(feature.counts_current), int(feature.defaults_to_current)
    for at, name in zip((LEFT, RIGHT), feature.inputs, strict=False):
        codes[at] = domain.feature_names.index(name)
    # Where nothing is carried, each record is as explained as any: its tag takes part, and is at most anything.
    codes[CARRIED], codes[AT_MOST] = TAG, ANY
    if feature.carried:
        owner = domain.entities[_entity(domain, feature)]
        codes[CARRIED] = VALUES + len(domain.numbers) + owner.carries.index(feature.carried)
        codes[AT_MOST] = int(feature.most_carried * MILLIONTHS)
    codes[COUNTS] = int(feature.counts)
    for at, name in enumerate(feature.parameters, WHOLE):
        codes[at] = int(getattr(feature, name))
    return codes


def _params(domain: Domain, feature: Feature) -> list[float]:
    column = _column(domain, feature)
    per_unit = domain.numbers[column].per_unit if column >= 0 else 1.0
    params = [0.0] * 4
    params[TIMES], params[EMPTY] = feature.multiple, feature.empty
    params[PER_UNIT], params[DIVISOR] = per_unit, per_unit if feature.has_unit else 1.0
    return params


def _share_tallies(domain: Domain, codes: Words, frames: list[Frame]) -> Words:
    """Finds what features ask of the same window, and writes into their codes where the answer stands.

    Returns:
        int64 [T, 5].
    """
    wanted = {}
    for f, (feature, code) in enumerate(zip(domain.features, codes.tolist(), strict=True)):
        if feature.tally is Tally.POSITIVES:
            wanted[f] = (int(feature.tally), code[CARRIED], code[AT_MOST], code[FRAME])
        elif feature.tally is Tally.NEWEST_LABEL:
            wanted[f] = (int(feature.tally), TAG, ANY, code[FRAME])
        elif feature.tally is not None:
            wanted[f] = (int(feature.tally), VALUES + code[COLUMN], ANY, code[FRAME])
    rows: list[list[int]] = []
    distinct = sorted(set(wanted.values()))
    for t, (kind, column, at_most, frame) in enumerate(distinct):
        before = distinct[t - 1] if t else None
        extends = before and before[:3] == (kind, column, at_most) and frames[before[3]][:2] == frames[frame][:2]
        rows.append([kind, frame, column, at_most, t - 1 if extends else -1])
    for f, tally in wanted.items():
        codes[f, TALLY] = distinct.index(tally)
    return np.array(rows, np.int64).reshape(len(rows), 5)


def _share_counts(codes: Words, params: npt.NDArray[np.float64], frames: list[Frame]) -> None:
    """Lets a count of what is above usual start from the count of an earlier feature's shorter window."""
    for f in range(len(codes)):
        if not codes[f, COUNTS]:
            continue
        for g in range(f):
            same = codes[g, COUNTS] and (codes[g, [COLUMN, LEFT]] == codes[f, [COLUMN, LEFT]]).all()
            mine, other = frames[codes[f, FRAME]], frames[codes[g, FRAME]]
            if same and params[g, TIMES] == params[f, TIMES] and mine[:2] == other[:2] and other[2] <= mine[2]:
                best = codes[f, PREVIOUS]
                if best < 0 or other[2] >= frames[codes[best, FRAME]][2]:
                    codes[f, PREVIOUS] = g


def _reads(domain: Domain, codes: Words, width: int) -> Words:
    """1 for the columns of each entity's records that are read through, which are fetched ahead: int64 [E, width]."""
    reads = np.zeros((len(domain.entities), width), np.int64)
    for feature, code in zip(domain.features, codes.tolist(), strict=True):
        if feature.entity:
            mine = reads[_entity(domain, feature)]
            mine[TS] = 1
            if code[COLUMN] >= 0:
                mine[VALUES + code[COLUMN]] = 1
            if feature.category is Category.LABELS:
                mine[[TAG, code[CARRIED]]] = 1
    return reads
