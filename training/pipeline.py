"""From a history to a trained, calibrated, measured model: the steps of `python -m training` in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training import baselines, calibrate, encoding, metrics, network, selection
from training.network import Fitted
from training.selection import Candidate
from training.split import Part, Split, by_time, days_of
from vigil.features.history import History
from vigil.progress import Steps

NETWORK = "Keras network"
MOST_TRAIN_ROWS = 600_000
_IMPORTANCE_GOOD = 20_000


@dataclass(frozen=True)
class Plan:
    """What can be chosen about a training.

    Args:
        seed: decides every sample, initial weight and dropout.
        epochs: the most epochs; early stopping on validation may take fewer.
        train_days: days of labelled events to learn from, before the gap to validation.
        valid_days: days to choose features, the epoch and the calibration on.
        test_days: days to measure on.
    """

    seed: int = 0
    epochs: int = network.EPOCHS
    train_days: int = 28
    valid_days: int = 14
    test_days: int = 7


@dataclass(frozen=True)
class Trained:
    """A model and all that was found out about it.

    Args:
        train_rows: positions in the history of the rows it learned from (a sample where there were too many).
        model: the Keras model: raw features in, risk out.
        used: names of the features it takes.
        inputs: how many there are once they are encoded.
        candidates: the sets of features the used one was chosen from.
        risks: of the network and each baseline, on the test rows, by name; the network (`NETWORK`) first.
        measures: on the test rows, of the network and each baseline: single figures by name.
        on_validation: the network's, on validation.
        platt: slope and intercept of the calibration.
        importance: average precision lost on validation by group of features.
    """

    history: History
    features: np.ndarray
    split: Split
    plan: Plan
    train_rows: np.ndarray
    model: Any
    used: tuple[str, ...]
    inputs: int
    candidates: list[Candidate]
    fitted: Fitted
    platt: tuple[float, float]
    risks: dict[str, np.ndarray]
    measures: dict[str, dict[str, float]]
    on_validation: dict[str, float]
    importance: dict[str, float]

    @property
    def test_labels(self) -> np.ndarray:
        """uint8[m]: the labels of the test rows."""
        labels: np.ndarray = self.history.labels[self.split.test.rows].astype(np.uint8)
        return labels


def train(history: History, features: np.ndarray, plan: Plan, steps: Steps) -> Trained:
    """Splits by time, chooses features, trains, calibrates and measures.

    Args:
        features: float32 [n, F], point-in-time features of the whole history.

    Raises:
        DataError: where the history is too short or one part of it has no bad or no good events.
    """
    domain = history.domain
    split = by_time(history, plan.train_days, plan.valid_days, plan.test_days)
    labels = history.labels.astype(np.uint8)
    train_rows = _sampled(split.train.rows, MOST_TRAIN_ROWS, plan.seed)
    x, y = features[train_rows], labels[train_rows]
    valid_x, valid_y = features[split.valid.rows], labels[split.valid.rows]

    with steps.step("choose features on validation", len(selection.sets(domain))) as done:
        candidates = selection.choose(domain, (x, y), (valid_x, valid_y), plan.seed, done)
    used = next(candidate.features for candidate in candidates if candidate.chosen)
    columns = [domain.feature_names.index(name) for name in used]

    code = encoding.learn(x, y, columns)
    encoded_valid = code.encode(valid_x)
    with steps.step("train the network", plan.epochs) as done:
        fitted = network.fit(code.encode(x), y, (encoded_valid, valid_y), plan.seed, plan.epochs, done)
    platt = calibrate.platt(network.logits(fitted.head, encoded_valid), valid_y)
    model = network.assemble(code, fitted.head, *platt, len(domain.features))

    test_x = features[split.test.rows]
    risks = {NETWORK: network.risks(model, test_x)}
    with steps.step("train the baselines", len(baselines.models(plan.seed))) as done:
        risks |= baselines.risks((x[:, columns], y), test_x[:, columns], plan.seed, done)
    with steps.step("weigh the feature groups", len(selection.groups(domain))) as done:
        sample = _with_all_bad(valid_y, plan.seed)
        lost = selection.importance(
            domain, lambda rows: network.risks(model, rows), valid_x[sample], valid_y[sample], used, plan.seed, done
        )
    measures = {name: measured(history, split.test, risk) for name, risk in risks.items()}
    on_validation = measured(history, split.valid, network.risks(model, valid_x))
    return Trained(
        history, features, split, plan, train_rows, model, used, len(code.low), candidates, fitted, platt, risks,
        measures, on_validation, lost,
    )  # fmt: skip


def measured(history: History, part: Part, risk: np.ndarray) -> dict[str, float]:
    """All single figures of risks on a part: over all its events, and with known compromised entities removed.

    Args:
        risk: float[len(part.rows)].
    """
    y = history.labels[part.rows].astype(np.uint8)
    found = metrics.ranking(y, risk) | metrics.calibration(y, risk) | {"bad_rate": float(y.mean())}
    entity = history.domain.entities[0].name
    keep = metrics.unknown(history, part, entity, int(np.ceil(history.domain.label_delay_days)))
    rows, left = part.rows[keep], risk[keep]
    y = history.labels[rows]
    if 0 < y.sum() < len(y):
        found |= {f"{name}_unknown": value for name, value in metrics.ranking(y, left).items()}
        cards = metrics.card_precision(days_of(history)[rows], history.keys[entity][rows], y, left)
        found[f"card_precision_{metrics.TOP}"] = cards
    return found


def _sampled(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _with_all_bad(y: np.ndarray, seed: int) -> np.ndarray:
    good = np.flatnonzero(y == 0)
    return np.concatenate((np.flatnonzero(y == 1), _sampled(good, _IMPORTANCE_GOOD, seed)))
