"""What is measured of risks against labels. All take labels y uint8[n] (1: bad) and risks float[n]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from training.split import Part, days_of
from vigil.domains.spec import Policy
from vigil.features.history import History

TOP = 100
KNOWN_DAYS = 7


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability curve: mean risk and share of bad events among those of about that risk."""

    low: float
    high: float
    events: int
    risk: float
    bad: float


@dataclass(frozen=True)
class Threshold:
    """What acting from one risk on would have meant, in money.

    Args:
        events: how many events have at least that risk.
        precision: share of bad ones among them.
        recall: share of all bad events that are among them.
        saved: money of the bad events among them.
        review_net: saved, less a person's look at each of them.
        block_net: saved, less the cost of each good event stopped.
    """

    risk: float
    events: int
    precision: float
    recall: float
    saved: float
    review_net: float
    block_net: float


def ranking(y: np.ndarray, risk: np.ndarray) -> dict[str, float]:
    """ROC AUC and average precision."""
    return {"auc": float(roc_auc_score(y, risk)), "average_precision": float(average_precision_score(y, risk))}


def unknown(history: History, part: Part, entity: str, delay_days: int, known_days: int = KNOWN_DAYS) -> np.ndarray:
    """Rows of `part` whose entity is not yet known to be compromised, as the Fraud Detection Handbook removes them.

    On a day, those are known that had a bad event between the day `known_days + delay_days` before the
    part and the last day whose labels have arrived. In the handbook's protocol, with training right
    before the delay, these are the training week and the days of the delay that have passed.

    Returns:
        bool [len(part.rows)].
    """
    day = days_of(history)
    _, key = np.unique(history.keys[entity], return_inverse=True)
    since = part.first_day - delay_days - known_days
    bad = (history.labels == 1) & (day >= since) & (day < part.end_day)
    first_bad = np.full(int(key.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_bad, key[bad], day[bad])
    known: np.ndarray = first_bad[key[part.rows]] <= day[part.rows] - delay_days - 1
    return ~known


def card_precision(day: np.ndarray, key: np.ndarray, y: np.ndarray, risk: np.ndarray, top: int = TOP) -> float:
    """Card precision at `top`, as the Fraud Detection Handbook defines it (its chapter 4).

    Each day the entities are ranked by their riskiest event; precision is the share of truly
    compromised ones among the first `top`, which are then found and leave the following days.
    The mean over the days.
    """
    found = np.zeros(0, key.dtype)
    precisions = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~np.isin(key, found))
        rows = rows[np.argsort(-risk[rows], kind="stable")]
        distinct, first = np.unique(key[rows], return_index=True)
        ranked = distinct[np.argsort(first, kind="stable")][:top]
        hit = ranked[np.isin(ranked, key[rows][y[rows] == 1])]
        found = np.concatenate((found, hit))
        precisions.append(len(hit) / top)
    return float(np.mean(precisions))


def reliability(y: np.ndarray, risk: np.ndarray, bins: int = 15) -> list[Bin]:
    """Events in `bins` equally wide ranges of risk; ranges without an event are left out."""
    place = np.minimum((risk * bins).astype(np.int64), bins - 1)
    return [
        Bin(b / bins, (b + 1) / bins, int(inside.sum()), float(risk[inside].mean()), float(y[inside].mean()))
        for b in range(bins)
        if (inside := place == b).any()
    ]


def calibration(y: np.ndarray, risk: np.ndarray, bins: int = 15) -> dict[str, float]:
    """Brier score, and expected calibration error: mean gap of the reliability curve, weighted by events."""
    gaps = [each.events * abs(each.risk - each.bad) for each in reliability(y, risk, bins)]
    return {"brier": float(np.mean((risk - y) ** 2)), "ece": float(sum(gaps) / len(y))}


def thresholds(
    y: np.ndarray, risk: np.ndarray, money: np.ndarray, policy: Policy, levels: tuple[float, ...] = ()
) -> list[Threshold]:
    """What acting from each of some risks on would have meant.

    Args:
        money: float64[n], what is lost where a bad event is let through.
    """
    always = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    table = []
    for level in sorted({*always, *levels, policy.review_at, policy.block_at}):
        flagged = risk >= level
        events, caught = int(flagged.sum()), int(y[flagged].sum())
        saved = float(money[flagged & (y == 1)].sum())
        table.append(
            Threshold(
                risk=level,
                events=events,
                precision=caught / events if events else 0.0,
                recall=caught / int(y.sum()),
                saved=saved,
                review_net=saved - policy.review_cost * events,
                block_net=saved - policy.block_cost * (events - caught),
            )
        )
    return table


def by_scenario(y: np.ndarray, risk: np.ndarray, scenario: np.ndarray, policy: Policy) -> list[dict[str, float]]:
    """Of each kind of bad event: how many, their mean risk, and the share from either threshold of the policy on."""
    return [
        {
            "scenario": int(kind),
            "events": int(inside.sum()),
            "mean_risk": float(risk[inside].mean()),
            "reviewed_or_blocked": float((risk[inside] >= policy.review_at).mean()),
            "blocked": float((risk[inside] >= policy.block_at).mean()),
        }
        for kind in np.unique(scenario[y == 1])
        if (inside := (y == 1) & (scenario == kind)).any()
    ]
