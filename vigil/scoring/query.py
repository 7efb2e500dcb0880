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


class Joined(NamedTuple):
    """Queries of one model as one: its rows float32 [n, F], and when they were begun and joined."""

    session: Session
    rows: Rows
    started_ns: int
    joined_ns: int


class Ran(NamedTuple):
    """What came out: risks float32 [n], or why there are none; and how long it took."""

    risks: Rows | InvalidInput
    took_ns: int


class Swapped(Exception):
    """The queries of a batch are for several models, as one was swapped while they waited: each goes alone."""


def join(batch: Sequence[Query]) -> Joined:
    """The rows of all queries together.

    Raises:
        Swapped: where they are not for one model.
    """
    started_ns = perf_counter_ns()
    session, _, rows, _ = batch[0]
    if any(query.session is not session for query in batch):
        raise Swapped
    if len(batch) > 1:
        rows = np.concatenate([query.rows for query in batch])
    return Joined(session, rows, started_ns, perf_counter_ns())


def run(joined: Joined) -> Ran:
    """The model's answer; touches nothing else, so that it may run in a thread."""
    started_ns = perf_counter_ns()
    risks: Rows | InvalidInput
    try:
        risks = joined.session.run(joined.rows)
    except InvalidInput as failure:
        risks = failure
    return Ran(risks, perf_counter_ns() - started_ns)


def part(batch: Sequence[Query], joined: Joined, ran: Ran) -> list[Rows]:
    """Risks float32 [n] of each query, which are counted in the model's statistics.

    Raises:
        InvalidInput: for a wrong shape or a value that is not finite.
    """
    began_ns, statistics = perf_counter_ns(), batch[0].statistics
    if isinstance(ran.risks, InvalidInput):
        if len(batch) == 1:  # of several, each is tried alone
            statistics.count_failure(began_ns - batch[0].submitted_ns)
        raise ran.risks
    parts, start = [], 0
    for query in batch:
        end = start + len(query.rows)
        parts.append(ran.risks[start:end])
        start = end
    times_ns = joined.joined_ns - joined.started_ns, ran.took_ns, perf_counter_ns() - began_ns
    waited_ns = len(batch) * joined.started_ns - sum(query.submitted_ns for query in batch)
    statistics.count_execution(len(batch), len(joined.rows), waited_ns, times_ns)
    return parts
