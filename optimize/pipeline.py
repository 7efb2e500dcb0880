"""Builds the candidates, measures them, chooses one and stores it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx

import model_store
from optimize import candidates, prune, quality, speed, table
from optimize.candidates import Measured
from optimize.choice import Budget, choose
from optimize.quality import Risks, Scorer
from optimize.runs import Rows, Run
from vigil import settings
from vigil.domains.spec import Domain
from vigil.errors import ModelRefused
from vigil.progress import Steps

Costs = tuple[float, float, float, float, float]
Step = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Args:
        tag: of the stored model.
        winner: its row of the table.
        measured: all rows.
        failures: why a candidate could not be made, by name.
    """

    tag: str
    winner: Measured
    measured: list[Measured]
    failures: dict[str, str]


def optimize(
    run: Run, domain: Domain, budget: Budget, sparsity: float, alias: str, seed: int, created: str, steps: Steps
) -> Outcome:
    """Stores the fastest ONNX form of the run's model that stays within `budget`, and lets `alias` mean it.

    Args:
        run: what training left.
        domain: whose model it is.
        budget: what it may cost.
        sparsity: of the pruned candidate, in [0, 1).
        alias: pointed at the stored model.
        seed: decides the fine-tuning.
        created: RFC 3339, noted in the manifest.
        steps: shows the progress.

    Raises:
        InvalidInput: for an alias that cannot be one.
        ModelRefused: where the Keras model cannot be read or converted, or no candidate is within the budget.
    """
    model_store.check_alias(alias)
    step, signing = steps.step, settings.load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            model, small = (keras.models.load_model(run.model_path, compile=False) for _ in range(2))
        except (OSError, ValueError, TypeError) as failure:
            raise ModelRefused(f"{run.model_path}: Keras cannot load it: {failure}") from None
        with step("prune and fine-tune", prune.steps(len(run.train_x))) as done:
            prune.pruned(small, run.train_x, sparsity, seed, done)
        with step("make candidates", len(candidates.MEANINGS)) as done:
            try:
                paths, failures = candidates.build(model, small, run.train_x, folder, done)
            except (ValueError, onnx.checker.ValidationError) as failure:
                raise ModelRefused(f"{run.model_path}: cannot be converted to ONNX: {failure}") from None
        measured = _measure(model, run, paths, step)
        winner = choose(measured, budget)
        report = folder / "optimization.md"
        report.write_text(table.markdown(measured, failures, budget, winner, sparsity, created), encoding="utf-8")
        edges, shares = quality.bins(quality.in_chunks(speed.scorer(paths[winner.name]), run.valid_x))
        tag = model_store.save(
            paths[winner.name],
            domain=domain.name,
            spec_hash=domain.spec_hash,
            feature_names=domain.feature_names,
            candidate=winner.name,
            metrics=run.facts["metrics"],
            candidates=[row.as_row() for row in measured],
            data_from=run.facts["data_from"],
            data_to=run.facts["data_to"],
            code_commit=run.facts["code_commit"],
            created=created,
            risk_edges=edges,
            risk_shares=shares,
            extra_files=[report, *run.reports],
            alias=alias,
            key=signing.model_key,
            certificates=signing.model_certificate,
        )
    return Outcome(tag, winner, measured, failures)


def _measure(model: Any, run: Run, paths: Mapping[str, Path], step: Step) -> list[Measured]:
    scorers = {name: speed.scorer(path) for name, path in paths.items()}
    with step("compare with Keras", len(scorers)) as done:
        wanted = [
            model.predict(x, batch_size=8192, verbose=0)[:, 0].astype(np.float32) for x in (run.valid_x, run.test_x)
        ]
        costs = {}
        for count, (name, score) in enumerate(scorers.items(), start=1):
            costs[name] = _costs(score, run, wanted)
            done(count)
    with step("measure speed", speed.ROUNDS) as done:
        times = speed.microseconds(scorers, run.test_x, done)
    return [_row(name, costs[name], candidates.sizes(path), times[name]) for name, path in paths.items()]


def _row(name: str, costs: Costs, sizes: tuple[int, int], times: dict[int, float]) -> Measured:
    difference, lost_valid, lost_test, alone, padded = costs
    return Measured(
        name=name,
        difference=difference,
        ap_lost_valid=lost_valid,
        ap_lost_test=lost_test,
        size=sizes[0],
        size_zipped=sizes[1],
        us_1=times[1],
        us_32=times[32],
        us_256=times[256],
        dependence=alone,
        dependence_padded=padded,
    )


def _costs(score: Scorer, run: Run, wanted: list[Risks]) -> Costs:
    """Largest difference, average precision lost on validation and test, dependence on the batch, the same padded."""
    parts: list[tuple[Rows, Any]] = [(run.valid_x, run.valid_y), (run.test_x, run.test_y)]
    found = [quality.in_chunks(score, x) for x, _ in parts]
    difference = max(float(np.max(np.abs(a - b))) for a, b in zip(found, wanted, strict=True))
    lost = [
        quality.average_precision(y, b) - quality.average_precision(y, a)
        for (_, y), a, b in zip(parts, found, wanted, strict=True)
    ]
    alone = quality.dependence(score, run.test_x)
    padded = quality.dependence(score, run.test_x, quality.WHOLE_ROWS)
    return difference, lost[0], lost[1], alone, padded
