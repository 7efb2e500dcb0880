"""How long a candidate takes a row, measured in turns so that a busy machine favours none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort

from optimize.convert import INPUT, OUTPUT
from optimize.quality import Risks, Scorer
from optimize.runs import Rows

BATCHES = (1, 32, 256)
ROUNDS = 120
_CALLS = {1: 30, 32: 10, 256: 2}


def scorer(path: Path) -> Scorer:
    """The ONNX file at `path` as the service runs it: one thread, float32 [n, F] -> float32 [n]."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def score(rows: Rows) -> Risks:
        risks: Risks = session.run([OUTPUT], {INPUT: rows})[0][:, 0]
        return risks

    return score


def microseconds(
    scorers: Mapping[str, Scorer], rows: Rows, progress: Callable[[int], None], rounds: int = ROUNDS
) -> dict[str, dict[int, float]]:
    """Microseconds a row, by candidate and batch size: the median over rounds in which all take their turn.

    Turns are short, so that most of them meet no other process.

    Args:
        scorers: candidates by name.
        rows: float32 [n, F], rows to score.
        progress: called with the number of rounds done.
        rounds: how many turns each has.
    """
    batches = {size: np.ascontiguousarray(np.resize(rows, (size, rows.shape[1]))) for size in BATCHES}
    times: dict[str, dict[int, list[float]]] = {name: {size: [] for size in BATCHES} for name in scorers}
    names = list(scorers)
    for turn in range(rounds):
        # Another one begins each round: what runs first meets colder caches.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for size, batch in batches.items():
                times[name][size].append(_one_turn(scorers[name], batch, _CALLS[size]))
        progress(turn + 1)
    return {name: {size: float(np.median(found)) for size, found in sizes.items()} for name, sizes in times.items()}


def _one_turn(score: Scorer, batch: Rows, calls: int) -> float:
    score(batch)
    start = perf_counter()
    for _ in range(calls):
        score(batch)
    return (perf_counter() - start) / calls / len(batch) * 1e6
