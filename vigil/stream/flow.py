"""A stream without a broker: from a source through the scorer into a sink, batch by batch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from vigil.errors import InvalidInput
from vigil.stream.endpoints import Sink, Source
from vigil.stream.lateness import SourceTime, times_of
from vigil.stream.scorer import Scorer

BATCH = 5000

Refuse = Callable[[int, bytes, InvalidInput], None]


@dataclass
class Total:
    """What went through: events with a decision, and refused ones."""

    decided: int = 0
    refused: int = 0


def flow(source: Source, scorer: Scorer, sink: Sink, refuse: Refuse, clock_ms: Callable[[], int]) -> Total:
    """Scores all of a source.

    Args:
        refuse: gets the number of an event that cannot be scored (from 1), its JSON, and why.
        clock_ms: gives the time, epoch milliseconds UTC.

    Raises:
        DataError: where the source cannot be read or the sink not be written.
    """
    total, engine = Total(), scorer.engine
    come = SourceTime(engine.max_past_ms)
    for batch in source.batches(BATCH):
        now_ms = clock_ms()
        events = scorer.decode(batch.values)
        come.advance(events, times_of(events, engine.times(now_ms).latest_ms), now_ms)
        outcome = scorer.score(batch.values, events, now_ms)
        sink.write(outcome.records)
        refused = {place: why for place, why in outcome.refused.items() if batch.values[place].strip()}
        for place, why in sorted(refused.items()):
            refuse(batch.first + place, batch.values[place], why)
        total.decided += len(outcome.records)
        total.refused += len(refused)
    sink.close()
    return total


def to_stderr(number: int, value: bytes, why: InvalidInput) -> None:
    """Says on standard error which event was refused, and why."""
    print(f"event {number} refused: {why}", file=sys.stderr)


def clock_ms() -> int:
    """The time, epoch milliseconds UTC."""
    return time.time_ns() // 1_000_000
