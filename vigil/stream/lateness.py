"""Which events of a source come too late, seen from those before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vigil.domains.schema import times_ms

NEVER = -(1 << 62)
Times = npt.NDArray[np.int64]


class Late(NamedTuple):
    """An event that is too late for its features to mean anything: rules decide on it."""

    event: Any


class SourceTime:
    """How far a source has come in event time.

    Each partition has its own: one that is read behind the others is not late.

    Args:
        max_past_ms: how far an event may be behind the newest before it in the source, which itself counts as no later
            than the clock.
    """

    def __init__(self, max_past_ms: int) -> None:
        self._max_past_ms = max_past_ms
        self.newest = NEVER

    def advance(self, events: list[Any], times: Times, now_ms: int) -> Times:
        """Takes note of the times of events in their order, and puts those that are late into `Late`.

        Args:
            events: changed in place.
            times: int64 [n], as `times_of` gives them.
            now_ms: the time, epoch milliseconds UTC.

        Returns:
            the newest time up to each, int64 [n].
        """
        if not len(times):
            return times
        newest: Times = np.maximum.accumulate(np.maximum(times, self.newest))
        self.newest = int(newest[-1])
        late = (times != NEVER) & (times < np.minimum(newest, now_ms) - self._max_past_ms)
        for place in np.flatnonzero(late).tolist():
            events[place] = Late(events[place])
        return newest


def times_of(events: Sequence[Any], latest_ms: int) -> Times:
    """Event times, int64 [n]; NEVER for what has none that can be, or is later than `latest_ms`."""
    try:
        times = times_ms([event.ts for event in events])
    except (AttributeError, ValueError, OverflowError):
        times = np.array([_time(event) for event in events], np.int64)
    times[(times < 0) | (times > latest_ms)] = NEVER
    return times


def _time(event: Any) -> int:
    try:
        time: int = times_ms([event.ts])[0]
    except (AttributeError, ValueError, OverflowError):
        return NEVER
    return time
