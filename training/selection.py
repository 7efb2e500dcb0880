"""Which features earn their place: groups of them are put to the test on validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score

from training.threads import one_thread
from vigil.domains.spec import Domain
from vigil.domains.windows import Category, Count, Feature, LabelRate, Last, Max, Mean, Min, SinceLast, Std, Sum

TOLERANCE = 0.002
_GOOD_PER_BAD = 15
_SEEDS = 2
_PLAIN = (Count, Sum, Mean, Std, Max, Min, LabelRate, SinceLast, Last)


@dataclass(frozen=True)
class Candidate:
    """A set of features and what a small gradient boosting made of it.

    Args:
        name: what it is, in words.
        features: their names, in the domain's order.
        ap: average precision on validation, mean over seeds.
        chosen: whether the model takes this one.
    """

    name: str
    features: tuple[str, ...]
    ap: float
    chosen: bool = False


def groups(domain: Domain) -> dict[str, tuple[str, ...]]:
    """The domain's features by entity and kind, each in one group; those of no entity are "event"."""
    by_name = {feature.name: feature for feature in domain.features}
    found: dict[str, list[str]] = {}
    for feature in domain.features:
        found.setdefault(_group(feature, by_name), []).append(feature.name)
    return {name: tuple(members) for name, members in found.items()}


def sets(domain: Domain) -> dict[str, tuple[str, ...]]:
    """The sets to compare: all, the plain windows alone, the rest alone, and all without each group."""
    members = groups(domain)
    plain = {name for name in members if name == "event" or name.endswith("plain windows")}
    wanted = {
        "all": set(members),
        "plain windows": plain,
        "all but plain windows": set(members) - (plain - {"event"}),
    }
    wanted |= {f"all without {name}": set(members) - {name} for name in members}
    candidates: dict[str, tuple[str, ...]] = {}
    for name, kept in wanted.items():
        features = tuple(f for f in domain.feature_names if any(f in members[group] for group in kept))
        if features and features not in candidates.values():
            candidates[name] = features
    return candidates


def choose(
    domain: Domain,
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[Candidate]:
    """Compares the sets; the smallest within `TOLERANCE` of the best average precision is chosen.

    Training takes all bad events and a sample of the good ones: enough to rank sets, and quick.

    Args:
        train: float32 [n, F] raw features and their labels uint8[n].
        valid: the same, to measure on.
        seed: decides the sample.
        progress: called with the number of sets done.
    """
    x, y = _thinned(*train, np.random.default_rng(seed))
    names = list(domain.feature_names)
    measured = []
    for done, (name, features) in enumerate(sets(domain).items(), start=1):
        columns = [names.index(feature) for feature in features]
        aps = [_ap(x[:, columns], y, valid[0][:, columns], valid[1], seed + i) for i in range(_SEEDS)]
        measured.append(Candidate(name, features, float(np.mean(aps))))
        if progress:
            progress(done)
    best = max(candidate.ap for candidate in measured)
    near = [candidate for candidate in measured if candidate.ap >= best - TOLERANCE]
    winner = min(near, key=lambda candidate: (len(candidate.features), -candidate.ap))
    return [Candidate(each.name, each.features, each.ap, each is winner) for each in measured]


def importance(
    domain: Domain,
    predict: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    used: tuple[str, ...],
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Average precision lost where a group's columns are shuffled together, by group, largest first.

    Args:
        predict: float32 [n, F] raw features -> risks [n].
        x: float32 [n, F].
        y: uint8 [n].
        used: the features the model takes.
    """
    names = list(domain.feature_names)
    whole = average_precision_score(y, predict(x))
    order = np.random.default_rng(seed).permutation(len(x))
    lost = {}
    for done, (name, members) in enumerate(groups(domain).items(), start=1):
        columns = [names.index(feature) for feature in members if feature in used]
        if columns:
            shuffled = x.copy()
            shuffled[:, columns] = x[order][:, columns]
            lost[name] = float(whole - average_precision_score(y, predict(shuffled)))
        if progress:
            progress(done)
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def _group(feature: Feature, by_name: dict[str, Feature]) -> str:
    entity = _entity(feature, by_name)
    if not entity:
        return "event"
    if feature.carried:
        return f"{entity}: unexplained labels"
    if feature.category is Category.LABELS and not isinstance(feature, _PLAIN):
        return f"{entity}: labels"
    return f"{entity}: plain windows" if isinstance(feature, _PLAIN) else f"{entity}: against its usual"


def _entity(feature: Feature, by_name: dict[str, Feature]) -> str:
    """The entity it looks back on, itself or through the features it is computed from."""
    through = (_entity(by_name[name], by_name) for name in feature.inputs)
    return feature.entity or next((entity for entity in through if entity), "")


def _thinned(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    bad, good = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    good = rng.choice(good, min(len(good), max(_GOOD_PER_BAD * len(bad), 2000)), replace=False)
    rows = np.sort(np.concatenate((bad, good)))
    return x[rows], y[rows]


def _ap(x: np.ndarray, y: np.ndarray, valid_x: np.ndarray, valid_y: np.ndarray, seed: int) -> float:
    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=30, early_stopping=False, random_state=seed,
        max_features=0.5,
    )  # fmt: skip
    with one_thread():
        return float(average_precision_score(valid_y, model.fit(x, y).predict_proba(valid_x)[:, 1]))
