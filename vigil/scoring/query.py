"""Feature rows of one caller on their way through the model they were checked against."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np

from vigil.errors import InvalidInput
from vigil.scoring.session import Rows, Session
from vigil.scoring.statistics import Statistics


class Query(NamedTuple):
    """What one caller asks.

    Args:
        session: the model asked, which answers even where it has been swapped since.
        statistics: of that model.
        rows: float32 [n, F].
        submitted_ns: when it was asked, of `time.perf_counter_ns`.
    """

    session: Session
    statistics: Statistics
    rows: Rows
    submitted_ns: int


def answer(batch: Sequence[Query]) -> list[Rows]:
    """Risks float32 [n] of each query; those of one model go through it together.

    Raises:
        InvalidInput: for a wrong shape or a value that is not finite.
    """
    session, statistics, rows, submitted_ns = batch[0]
    if any(query.session is not session for query in batch):  # the model was swapped while they waited
        return [answer([query])[0] for query in batch]
    started_ns = perf_counter_ns()
    if len(batch) > 1:
        rows = np.concatenate([query.rows for query in batch])
    joined_ns = perf_counter_ns()
    try:
        risks = session.run(rows)
    except InvalidInput:
        if len(batch) == 1:  # of several, each is tried alone
            statistics.failed(perf_counter_ns() - submitted_ns)
        raise
    ran_ns = perf_counter_ns()
    parts = [risks] if len(batch) == 1 else np.split(risks, np.cumsum([len(query.rows) for query in batch])[:-1])
    times_ns = joined_ns - started_ns, ran_ns - joined_ns, perf_counter_ns() - ran_ns
    waited_ns = len(batch) * started_ns - sum(query.submitted_ns for query in batch)
    statistics.ran(len(batch), len(rows), waited_ns, times_ns)
    return parts
