"""The Fraud Detection Handbook's own protocol on its own data, for figures to lay beside the published ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from training import encoding, metrics, network, selection
from training.split import Part, date_of, days_of, part, refuse_one_sided
from vigil.errors import DataError
from vigil.features.history import History
from vigil.progress import Steps

_EPOCH = date(1970, 1, 1)
STARTS = tuple((date(2018, month, day) - _EPOCH).days for month, day in ((7, 25), (8, 1), (8, 8), (8, 15)))
WEEK = 7
MEASURES = ("auc", "average_precision", "card_precision_100")

# The best of the handbook's chapters 5 and 6: ROC AUC, average precision, card precision@100.
PUBLISHED_FOLDS = {
    "balanced bagging": (0.879, 0.680, 0.305),
    "XGBoost, tuned": (0.869, 0.687, 0.303),
}
PUBLISHED_SINGLE = {"XGBoost": (0.862, 0.639, 0.273), "random forest": (0.867, 0.658, 0.287)}


@dataclass(frozen=True)
class Fold:
    """Train a week, wait a week for the labels, test a week."""

    train: Part
    test: Part


@dataclass(frozen=True)
class Results:
    """Measures of each fold and seed.

    Args:
        values: float64 [folds, seeds, 3]: AUC, average precision, card precision@100.
        features: the columns the network took.
        candidates: the sets they were chosen from, on the weeks before.
    """

    folds: tuple[Fold, ...]
    seeds: int
    values: np.ndarray
    features: tuple[str, ...]
    candidates: list[selection.Candidate]


def fold(history: History, start: int) -> Fold:
    """The fold whose training week begins at day `start` (counted from the epoch).

    Raises:
        DataError: where the history does not hold both weeks.
    """
    found = Fold(
        part(history, "training week", start, start + WEEK),
        part(history, "test week", start + 2 * WEEK, start + 3 * WEEK),
    )
    day = days_of(history)
    if day[0] > start or day[-1] < start + 3 * WEEK - 1:
        raise DataError(
            f"protocol handbook: the history goes from {date_of(int(day[0]))} to {date_of(int(day[-1]))}, "
            f"wanted it to hold {date_of(start)} to {date_of(start + 3 * WEEK - 1)}"
        )
    for each in (found.train, found.test):
        refuse_one_sided(history, each)
    return found


def run(history: History, features: np.ndarray, out: Path, seeds: int, steps: Steps) -> Results:
    """Trains a network a fold and seed and writes `protocol_risks.parquet`, `protocol.json` and `protocol.md`.

    Nothing is chosen on a test week: the feature set is chosen on a fold whose test week comes before
    the first test week of the protocol, and all epochs are trained.

    Args:
        features: float32 [n, F], of the whole history.
        seeds: networks a fold.
    """
    entity = history.domain.entities[0].name
    folds = tuple(fold(history, start) for start in STARTS)
    before = fold(history, STARTS[0] - 2 * WEEK)
    labels = history.labels.astype(np.uint8)
    train, valid = ((features[p.rows], labels[p.rows]) for p in (before.train, before.test))
    with steps.step("choose features (earlier weeks)", len(selection.sets(history.domain))) as done:
        candidates = selection.choose(history.domain, train, valid, 0, done)
    used = next(candidate.features for candidate in candidates if candidate.chosen)
    columns = [history.domain.feature_names.index(name) for name in used]
    values = np.zeros((len(folds), seeds, len(MEASURES)))
    risks = np.zeros((len(folds), seeds), dtype=object)
    with steps.step("train and test", len(folds) * seeds) as done:
        for f, each in enumerate(folds):
            x, y = features[each.train.rows], labels[each.train.rows]
            code = encoding.learn(x, y, columns)
            train_x, test_x = code.encode(x), code.encode(features[each.test.rows])
            for seed in range(seeds):
                head = network.fit(train_x, y, None, seed).head
                risks[f, seed] = 1 / (1 + np.exp(-network.logits(head, test_x).astype(np.float64)))
                values[f, seed] = measured(history, each.test, entity, risks[f, seed])
                done(f * seeds + seed + 1)
    results = Results(folds, seeds, values, used, candidates)
    _write(history, results, risks, out)
    return results


def measured(history: History, test: Part, entity: str, risk: np.ndarray) -> tuple[float, float, float]:
    """AUC, average precision and card precision@100 of a test week, cards known to be compromised removed.

    Args:
        risk: float[len(test.rows)].
    """
    keep = metrics.unknown(history, test, entity, WEEK, WEEK)
    rows, left = test.rows[keep], risk[keep]
    ranked = metrics.ranking(history.labels[rows], left)
    cards = metrics.card_precision(days_of(history)[rows], history.keys[entity][rows], history.labels[rows], left)
    return ranked["auc"], ranked["average_precision"], cards


def summary(results: Results) -> list[list[str]]:
    """Rows of name, AUC, AP, CP@100: this network over the folds and on the single split, beside the published."""
    of_seeds = results.values.mean(axis=1)
    over_seeds = results.values.mean(axis=0)
    rows = [["one Keras network, 4 folds", *_shown(of_seeds.mean(axis=0))]]
    rows.append(["  deviation over folds", *_shown(of_seeds.std(axis=0), 4)])
    rows.append([f"  deviation over {results.seeds} seeds", *_shown(over_seeds.std(axis=0), 4)])
    rows += [[f"published: {name}, 4 folds", *_shown(np.array(value))] for name, value in PUBLISHED_FOLDS.items()]
    rows.append([f"one Keras network, single split {date_of(STARTS[0])}", *_shown(of_seeds[0])])
    rows += [[f"published: {name}, single split", *_shown(np.array(value))] for name, value in PUBLISHED_SINGLE.items()]
    return rows


def _shown(values: np.ndarray, digits: int = 3) -> list[str]:
    return [f"{value:.{digits}f}" for value in values]


def _write(history: History, results: Results, risks: np.ndarray, out: Path) -> None:
    import polars as pl

    out.mkdir(parents=True, exist_ok=True)
    frames = [
        pl.DataFrame(
            {
                "transaction_id": pl.Series(history.event_ids[each.test.rows].tolist()),
                "fold": [date_of(each.train.first_day)] * len(each.test.rows),
                "seed": [seed] * len(each.test.rows),
                "risk": risks[f, seed],
            }
        )
        for f, each in enumerate(results.folds)
        for seed in range(results.seeds)
    ]
    pl.concat(frames).write_parquet(out / "protocol_risks.parquet")
    listed = [
        {"fold": date_of(each.train.first_day), "seed": seed}
        | dict(zip(MEASURES, results.values[f, seed], strict=True))
        for f, each in enumerate(results.folds)
        for seed in range(results.seeds)
    ]
    body = {"features": results.features, "folds": listed}
    (out / "protocol.json").write_text(json.dumps(body, indent=1) + "\n")
    (out / "protocol.md").write_text(_markdown(results))


def _markdown(results: Results) -> str:
    lines = [
        "# The handbook's protocol",
        "",
        "Train 7 days, labels known 7 days late, test 7 days; cards already known as compromised leave the test week.",
        f"One Keras network, {results.seeds} seeds; all epochs trained; {len(results.features)} features, "
        "chosen on the weeks before the first test week.",
        "",
        "| | ROC AUC | average precision | card precision@100 |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in summary(results)),
        "",
        "| fold (training from) | seed | ROC AUC | average precision | card precision@100 |",
        "|---|---|---|---|---|",
    ]
    for f, each in enumerate(results.folds):
        for seed in range(results.seeds):
            shown = " | ".join(_shown(results.values[f, seed]))
            lines.append(f"| {date_of(each.train.first_day)} | {seed} | {shown} |")
    lines += [
        "",
        "`protocol_risks.parquet` holds the risk of every payment of the test weeks, those of removed cards as well.",
        "",
        "Features: " + ", ".join(results.features) + ".",
        "",
    ]
    return "\n".join(lines)
