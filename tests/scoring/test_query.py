"""The laws of rows on their way through a model, and of what is counted."""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np
import pytest

from testbed import tiny_model
from vigil.errors import InvalidInput
from vigil.scoring.query import Query, Swapped, join, part, run
from vigil.scoring.session import Rows, Session
from vigil.scoring.statistics import Statistics

WIDTH = 12
ROWS = np.random.default_rng(2).normal(0, 9, (9, WIDTH)).astype(np.float32)
NOW_MS = 1_538_308_800_000


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> list[Session]:
    folder = tmp_path_factory.mktemp("models")
    names = [f"f{i}" for i in range(WIDTH)]
    paths = [tiny_model.write_onnx(folder / f"{seed}.onnx", WIDTH, seed) for seed in (0, 1)]
    return [
        Session(path.read_bytes(), f"payments:{i}", str(i), "digest", names, max_batch=64)
        for i, path in enumerate(paths)
    ]


@pytest.fixture
def statistics() -> Statistics:
    return Statistics(lambda: NOW_MS)


def answer(batch: list[Query]) -> list[Rows]:
    joined = join(batch)
    return part(batch, joined, run(joined))


def test_each_query_gets_the_risks_of_its_rows(sessions: list[Session], statistics: Statistics) -> None:
    parts = [ROWS[:1], ROWS[1:5], ROWS[5:]]
    risks = answer([Query(sessions[0], statistics, rows, 0) for rows in parts])
    assert [len(part) for part in risks] == [1, 4, 4]
    assert (np.concatenate(risks) == sessions[0].run(ROWS)).all()


def test_a_query_is_answered_by_its_own_model_when_another_took_over(
    sessions: list[Session], statistics: Statistics
) -> None:
    queries = [Query(session, statistics, ROWS, 0) for session in sessions]
    with pytest.raises(Swapped):
        join(queries)  # the batcher then takes each alone
    [old], [new] = (answer([query]) for query in queries)
    assert (old == sessions[0].run(ROWS)).all()
    assert (new == sessions[1].run(ROWS)).all()
    assert (old != new).any()


def test_rows_are_inferences_and_batches_executions(sessions: list[Session], statistics: Statistics) -> None:
    answer([Query(sessions[0], statistics, rows, perf_counter_ns()) for rows in (ROWS[:2], ROWS[2:5])])
    answer([Query(sessions[0], statistics, ROWS[:1], perf_counter_ns())])
    assert (statistics.inferences, statistics.executions, statistics.last_inference_ms) == (6, 2, NOW_MS)
    assert (statistics.success.count, statistics.queue.count, statistics.fail.count) == (3, 3, 0)
    assert {size: each.compute_infer.count for size, each in statistics.by_size.items()} == {5: 1, 1: 1}


def test_times_are_parts_of_the_whole(sessions: list[Session], statistics: Statistics) -> None:
    before_ns = perf_counter_ns()
    answer([Query(sessions[0], statistics, rows, before_ns) for rows in (ROWS[:2], ROWS[2:])])
    whole_ns = perf_counter_ns() - before_ns
    compute = statistics.compute
    parts = (statistics.queue, compute.compute_input, compute.compute_infer, compute.compute_output)
    assert all(part.ns > 0 for part in parts)
    assert statistics.success.ns == sum(part.ns for part in parts) <= 2 * whole_ns


def test_a_refused_request_counts_as_failed_once(sessions: list[Session], statistics: Statistics) -> None:
    good, bad = (Query(sessions[0], statistics, rows, 0) for rows in (ROWS, ROWS * np.float32("nan")))
    with pytest.raises(InvalidInput):
        answer([good, bad])  # the batcher then tries each alone
    assert (statistics.fail.count, statistics.success.count) == (0, 0)
    with pytest.raises(InvalidInput):
        answer([bad])
    assert (statistics.fail.count, statistics.success.count, statistics.executions) == (1, 0, 0)
    assert statistics.fail.ns > 0
