"""What waits for the next batch: by priority, by deadline."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from vigil.errors import DeadlineExceeded
from vigil.observe.tracing import Trace
from vigil.scoring.caller import Caller

Item = TypeVar("Item")
Result = TypeVar("Result")

BULK_WAIT_S = 0.05
LIVE_ROWS = 16  # a call with more rows is bulk, and lets the smaller ones pass


class Priority(IntEnum):
    """LIVE goes before BULK, unless a bulk submission has waited for `BULK_WAIT_S`."""

    LIVE = 0
    BULK = 1

    @classmethod
    def of(cls, rows: int) -> Priority:
        """Of a call with so many rows."""
        return cls.LIVE if rows <= LIVE_ROWS else cls.BULK


@dataclass(slots=True, eq=False)
class Entry(Generic[Item, Result]):
    """One submission: `rows` of `item`, submitted at and useless after a moment of the batcher's clock.

    `trace` is that of the call it belongs to, where that is sampled.
    """

    item: Item
    rows: int
    caller: Caller[Result]
    submitted_s: float
    deadline_s: float | None
    trace: Trace | None = None


class Queue(Generic[Item, Result]):
    """Entries in order of arrival within their priority.

    Args:
        max_batch: most rows taken at once; a larger single submission goes alone.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._alone: deque[Entry[Item, Result]] = deque()
        self._live: deque[Entry[Item, Result]] = deque()
        self._bulk: deque[Entry[Item, Result]] = deque()
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self._live or self._bulk or self._alone)

    def put(self, entry: Entry[Item, Result], priority: Priority) -> None:
        """Lets an entry wait."""
        (self._bulk if priority else self._live).append(entry)
        self.rows += entry.rows

    def put_alone(self, entries: list[Entry[Item, Result]]) -> None:
        """Lets entries of a batch that failed wait once more, ahead of all, each to be taken alone."""
        self._alone.extend(entries)
        self.rows += sum(entry.rows for entry in entries)

    def take(self, now_s: float) -> list[Entry[Item, Result]]:
        """The next batch. Callers that have gone are dropped, those too late get DeadlineExceeded."""
        while self._alone:
            if self._is_wanted(self._alone[0], now_s):
                return [self._pop(self._alone)]
            self._pop(self._alone)
        batch: list[Entry[Item, Result]] = []
        total = 0
        bulk_first = bool(self._bulk) and now_s - self._bulk[0].submitted_s > BULK_WAIT_S
        for queue in (self._bulk, self._live) if bulk_first else (self._live, self._bulk):
            while queue:
                if batch and total + queue[0].rows > self._max_batch:
                    return batch
                entry = self._pop(queue)
                if self._is_wanted(entry, now_s):
                    batch.append(entry)
                    total += entry.rows
        return batch

    def _pop(self, queue: deque[Entry[Item, Result]]) -> Entry[Item, Result]:
        entry = queue.popleft()
        self.rows -= entry.rows
        return entry

    @staticmethod
    def _is_wanted(entry: Entry[Item, Result], now_s: float) -> bool:
        if entry.caller.done():
            return False
        if entry.deadline_s is not None and now_s >= entry.deadline_s:
            entry.caller.set_exception(too_late(now_s - entry.deadline_s))
            return False
        return True


def too_late(by_s: float) -> DeadlineExceeded:
    """The failure of what was late by so many seconds before it could run."""
    return DeadlineExceeded(f"deadline passed {by_s * 1000:.1f} ms before this could run; nothing was computed")
