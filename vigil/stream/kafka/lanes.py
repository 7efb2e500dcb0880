"""Partitions side by side: their records are let through in order of event time.

A backlog is read partition by partition in large pieces, days of one before the first hour of the next.
Entities whose events are spread over partitions would then see days come out of order. So what is read
waits in the lane of its partition until every other lane has come as far, or has come to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.domains.schema import times_ms

FULL = 60_000  # records in a lane from which on its partition is not read on
ROOM = 20_000  # and below which it is again
FULL_BYTES, ROOM_BYTES = 32 << 20, 8 << 20  # the same of their values
NEVER = -(1 << 62)


class Lane:
    """Records of one partition that wait, their events, and the newest event time up to each, int64 [n]."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.events: list[Any] = []
        self.times = np.empty(0, np.int64)
        self.newest = NEVER
        self.bytes = 0
        self.ended = False
        self.next_offset = -1
        self.since_s = 0.0
        self.paused = False

    @property
    def full(self) -> bool:
        """Whether its partition is not to be read on."""
        return len(self.records) >= FULL or self.bytes >= FULL_BYTES

    @property
    def has_room(self) -> bool:
        """Whether its partition is to be read again, where it was not."""
        return len(self.records) <= ROOM and self.bytes <= ROOM_BYTES


class Lanes:
    """The lanes of the assigned partitions.

    Args:
        patience_s: how long a lane without records, whose partition has more, may keep the others waiting.
        max_future_ms: how far an event's time may be ahead of the clock; one further ahead orders nothing.
    """

    def __init__(self, patience_s: float, max_future_ms: int) -> None:
        self.lanes: dict[int, Lane] = {}
        self._patience_s, self._max_future_ms = patience_s, max_future_ms

    @property
    def waiting(self) -> int:
        """Records in all lanes."""
        return sum(len(lane.records) for lane in self.lanes.values())

    @property
    def done(self) -> bool:
        """Whether every partition has been read to its end, and nothing waits."""
        return all(lane.ended and not lane.records for lane in self.lanes.values())

    def open(self, partitions: Iterable[int], now_s: float) -> None:
        """Begins lanes."""
        for partition in partitions:
            self.lanes[partition] = Lane()
            self.lanes[partition].since_s = now_s

    def drop(self, partitions: Iterable[int]) -> None:
        """Ends lanes; what waits in them is forgotten."""
        for partition in partitions:
            self.lanes.pop(partition, None)

    def add(self, records: Sequence[Any], events: Sequence[Any], now_ms: int) -> None:
        """Takes records in the order they were read.

        Args:
            records: of Kafka's client, without errors.
            events: what each decodes to, of the domain's schema or an InvalidInput.
            now_ms: the time, epoch milliseconds UTC.
        """
        places = [record.partition() for record in records]
        times = _times(events, now_ms + self._max_future_ms)
        bounds = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(records)]
        for start, end in pairwise(bounds):
            lane = self.lanes.get(places[start])
            if lane is None:  # taken away meanwhile
                continue
            newest = np.maximum.accumulate(np.maximum(times[start:end], lane.newest))
            lane.records += records[start:end]
            lane.events += events[start:end]
            lane.bytes += sum(map(len, records[start:end]))
            lane.times = np.concatenate((lane.times, newest)) if len(lane.times) else newest
            lane.newest, lane.ended = int(newest[-1]), False
            lane.next_offset = records[end - 1].offset() + 1

    def take(self, most: int, now_s: float) -> tuple[list[Any], list[Any]]:
        """Records whose turn it is, and their events, in order of event time (within a partition, in its own).

        There are about `most` of them.
        """
        filled = [lane for lane in self.lanes.values() if lane.records]
        turn = self._turn(now_s)
        if not filled or turn is None:
            return [], []
        if len(self.lanes) == 1:
            return _cut(filled[0], min(most, len(filled[0].records)), now_s)
        times = np.concatenate([lane.times[: most + 1] for lane in filled])
        last = min(most, len(times)) - 1
        turn = min(turn, int(np.partition(times, last)[last]))
        counts = [int(np.searchsorted(lane.times, turn, "right")) for lane in filled]
        order = np.argsort(
            np.concatenate([lane.times[:count] for lane, count in zip(filled, counts, strict=True)]), kind="stable"
        ).tolist()
        records, events = list[Any](), list[Any]()
        for lane, count in zip(filled, counts, strict=True):
            cut = _cut(lane, count, now_s)
            records += cut[0]
            events += cut[1]
        return [records[i] for i in order], [events[i] for i in order]

    def _turn(self, now_s: float) -> int | None:
        """The event time up to which no lane can bring anything older; None: one is to be waited for."""
        turn = 1 << 62
        for lane in self.lanes.values():
            if lane.records:
                if not lane.ended:
                    turn = min(turn, lane.newest)
            elif not lane.ended and now_s - lane.since_s < self._patience_s:
                return None
        return turn


def _cut(lane: Lane, count: int, now_s: float) -> tuple[list[Any], list[Any]]:
    records, events = lane.records[:count], lane.events[:count]
    del lane.records[:count], lane.events[:count]  # a copy of what stays would look at each of its objects
    lane.times, lane.since_s = lane.times[count:], now_s
    lane.bytes -= sum(map(len, records))
    return records, events


def _times(events: Sequence[Any], latest_ms: int) -> npt.NDArray[np.int64]:
    """Event times, int64 [n]; NEVER for what has none that can be."""
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
