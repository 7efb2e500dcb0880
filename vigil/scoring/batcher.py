"""What arrives in one turn of the event loop goes through together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from vigil.errors import Overloaded
from vigil.metrics import BatchMetrics

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects the submissions of one turn of the loop and runs them as one batch. Nothing polls.

    Submissions keep their order. One whose caller has gone is dropped. Where a batch of several fails,
    each is run alone, so an exception reaches only the caller it belongs to: `run` must not have done
    part of its work when it raises.

    Args:
        run: takes the items of a batch and gives one result an item, in order.
        max_batch: most rows a batch holds; a larger single submission goes alone.
        max_queue: most rows that wait; a larger single submission is taken when nothing waits.
        metrics: where batch sizes, queue depth and refusals are reported.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch: int,
        max_queue: int,
        metrics: BatchMetrics,
    ) -> None:
        self._run = run
        self._max_batch, self._max_queue = max_batch, max_queue
        self._metrics = metrics
        self._waiting: deque[tuple[Item, int, asyncio.Future[Result]]] = deque()
        self._rows = 0

    def submit(self, item: Item, rows: int = 1) -> asyncio.Future[Result]:
        """Queues one item of `rows` rows; its result comes with the batch it joins.

        Raises:
            Overloaded: where the rows waiting would become more than `max_queue`.
        """
        if self._rows and self._rows + rows > self._max_queue:
            self._metrics.overloaded.inc()
            raise Overloaded(f"queue full: {self._rows} rows wait of at most {self._max_queue}; try again later")
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, rows, future))
        self._rows += rows
        return future

    def _flush(self) -> None:
        self._metrics.waiting.set(self._rows)
        batch, rows = self._take()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        if batch:
            self._metrics.rows.observe(rows)
            self._answer(batch)
        if not self._waiting:
            self._metrics.waiting.set(0)

    def _take(self) -> tuple[list[tuple[Item, asyncio.Future[Result]]], int]:
        """The next batch, without the callers that have gone, and its rows."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        total = 0
        while self._waiting:
            item, rows, future = self._waiting[0]
            if batch and total + rows > self._max_batch:
                break
            self._waiting.popleft()
            self._rows -= rows
            if not future.done():
                batch.append((item, future))
                total += rows
        return batch, total

    def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = self._run([item for item, _ in batch])
        except Exception as failure:
            if len(batch) == 1:
                batch[0][1].set_exception(failure)
            else:
                for alone in batch:
                    self._answer([alone])
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
