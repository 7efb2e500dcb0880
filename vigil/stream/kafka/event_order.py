"""Partitions side by side: their records are let through in order of event time.

A backlog is read partition by partition in large pieces, days of one before the first hour of the next.
Entities whose events are spread over partitions would then see days come out of order. So what is read
waits in the backlog of its partition until every other partition has come as far, or to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from vigil.stream.lateness import SourceTime, times_of

FULL = 60_000  # records in a backlog from which on its partition is not read on
ROOM = 20_000  # and below which it is again
FULL_BYTES, ROOM_BYTES = 32 << 20, 8 << 20  # the same of their values


class Backlog:
    """Records of one partition that wait, their events, and the newest event time up to each, int64 [n]."""

    def __init__(self, time: SourceTime) -> None:
        self.records: list[Any] = []
        self.events: list[Any] = []
        self.times = np.empty(0, np.int64)
        self.time = time
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


class EventOrder:
    """Merges the assigned partitions by event time.

    Args:
        patience_s: how long a backlog without records, whose partition has more, may keep the others waiting.
        max_future_ms: how far an event's time may be ahead of the clock; one further ahead orders nothing.
        max_past_ms: how far behind the newest of its partition, before it is `Late`.
    """

    def __init__(self, patience_s: float, max_future_ms: int, max_past_ms: int = 1 << 61) -> None:
        self.partitions: dict[int, Backlog] = {}
        self._patience_s, self._max_future_ms, self._max_past_ms = patience_s, max_future_ms, max_past_ms

    @property
    def waiting(self) -> int:
        """Records in all backlogs."""
        return sum(len(backlog.records) for backlog in self.partitions.values())

    @property
    def done(self) -> bool:
        """Whether every partition has been read to its end, and nothing waits."""
        return all(backlog.ended and not backlog.records for backlog in self.partitions.values())

    def open(self, partitions: Iterable[int], now_s: float) -> None:
        """Begins backlogs."""
        for partition in partitions:
            self.partitions[partition] = Backlog(SourceTime(self._max_past_ms))
            self.partitions[partition].since_s = now_s

    def drop(self, partitions: Iterable[int]) -> None:
        """Ends backlogs; what waits in them is forgotten."""
        for partition in partitions:
            self.partitions.pop(partition, None)

    def add(self, records: Sequence[Any], events: Sequence[Any], now_ms: int) -> None:
        """Takes records in the order they were read.

        Args:
            records: of Kafka's client, without errors.
            events: what each decodes to, of the domain's schema or an InvalidInput.
            now_ms: the time, epoch milliseconds UTC.
        """
        places = [record.partition() for record in records]
        times = times_of(events, now_ms + self._max_future_ms)
        bounds = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(records)]
        for start, end in pairwise(bounds):
            backlog = self.partitions.get(places[start])
            if backlog is None:  # taken away meanwhile
                continue
            came = list(events[start:end])
            newest = backlog.time.advance(came, times[start:end], now_ms)
            backlog.records += records[start:end]
            backlog.events += came
            backlog.bytes += sum(map(len, records[start:end]))
            backlog.times = np.concatenate((backlog.times, newest)) if len(backlog.times) else newest
            backlog.ended = False
            backlog.next_offset = records[end - 1].offset() + 1

    def take(self, most: int, now_s: float) -> tuple[list[Any], list[Any]]:
        """Records whose turn it is, and their events, in order of event time (within a partition, in its own).

        There are about `most` of them.
        """
        filled = [backlog for backlog in self.partitions.values() if backlog.records]
        turn = self._turn(now_s)
        if not filled or turn is None:
            return [], []
        if len(self.partitions) == 1:
            return _cut(filled[0], min(most, len(filled[0].records)), now_s)
        times = np.concatenate([backlog.times[: most + 1] for backlog in filled])
        last = min(most, len(times)) - 1
        turn = min(turn, int(np.partition(times, last)[last]))
        counts = [int(np.searchsorted(backlog.times, turn, "right")) for backlog in filled]
        order = np.argsort(
            np.concatenate([backlog.times[:count] for backlog, count in zip(filled, counts, strict=True)]),
            kind="stable",
        ).tolist()
        records, events = list[Any](), list[Any]()
        for backlog, count in zip(filled, counts, strict=True):
            cut = _cut(backlog, count, now_s)
            records += cut[0]
            events += cut[1]
        return [records[i] for i in order], [events[i] for i in order]

    def _turn(self, now_s: float) -> int | None:
        """The event time up to which no backlog can bring anything older; None: one is to be waited for."""
        turn = 1 << 62
        for backlog in self.partitions.values():
            if backlog.records:
                if not backlog.ended:
                    turn = min(turn, backlog.time.newest)
            elif not backlog.ended and now_s - backlog.since_s < self._patience_s:
                return None
        return turn


def _cut(backlog: Backlog, count: int, now_s: float) -> tuple[list[Any], list[Any]]:
    records, events = backlog.records[:count], backlog.events[:count]
    del backlog.records[:count], backlog.events[:count]  # a copy of what stays would look at each of its objects
    backlog.times, backlog.since_s = backlog.times[count:], now_s
    backlog.bytes -= sum(map(len, records))
    return records, events
