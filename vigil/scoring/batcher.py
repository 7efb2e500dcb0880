"""What arrives in one turn of the event loop goes through together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from vigil.errors import Overloaded
from vigil.observe import tracing
from vigil.observe.metrics import BatchMetrics
from vigil.scoring.caller import Caller
from vigil.scoring.pace import Pace
from vigil.scoring.queue import Entry, Priority, Queue, too_late

Item = TypeVar("Item")
Load = TypeVar("Load")
Output = TypeVar("Output")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """Bounds of a batcher.

    Args:
        max_batch: most rows a batch holds; a larger single submission goes alone.
        max_queue: most rows that wait; a larger single submission is taken when nothing waits.
        max_wait_s: most time that what waits may be expected to take.
    """

    max_batch: int
    max_queue: int
    max_wait_s: float


class Batcher(Generic[Item, Load, Output, Result]):
    """Collects the submissions of one turn of the loop and runs them as one batch. Nothing polls.

    A batch is prepared on the loop's thread, computed, and finished on the loop's thread. Where batches of
    its size are known to be slow, it is computed in a thread of its own while the next one fills; there is
    never more than one batch between `prepare` and `finish`, so what these two touch needs no lock.

    Submissions keep their order within a priority. One whose caller has gone is dropped, one that is past
    its deadline is refused, neither is run. Where a batch of several fails, each is run alone, so an
    exception reaches only the caller it belongs to: `prepare` must bear being called again for the same
    item.

    What waits is bounded in rows and in time: a submission is refused where all that waits, with it, would
    take longer than `max_wait_s` at the measured pace of batches of that size (or twice as long as one row
    alone, where the model is that slow). So a queue of any depth that would make everyone late does not come
    to be, and one of many cheap rows is not refused. What comes while nothing waits is always taken.

    Args:
        prepare: the items of a batch to what the model takes.
        compute: the model; must touch nothing else.
        finish: items, what was prepared and what came out, to one result an item, in order, or why it has none.
        limits: of batch and queue.
        metrics: where batch sizes, queue depth and refusals are reported.
        warm_s: seconds of `compute` for one row, as measured at the warm-up.
        clock_s: moments in seconds; deadlines are such moments.
        waits: whether `compute` waits for others, so that it never runs on the loop's thread.
    """

    def __init__(
        self,
        prepare: Callable[[Sequence[Item]], Load],
        compute: Callable[[Load], Output],
        finish: Callable[[Sequence[Item], Load, Output], Sequence[Result | Exception]],
        limits: Limits,
        metrics: BatchMetrics,
        warm_s: float = 0.0,
        clock_s: Callable[[], float] = perf_counter,
        waits: bool = False,
    ) -> None:
        self._prepare, self._compute, self._finish = prepare, compute, finish
        self._limits, self._metrics, self._clock_s = limits, metrics, clock_s
        self._queue: Queue[Item, Result] = Queue(limits.max_batch)
        self._compute_pace, self._whole_pace = Pace(warm_s), Pace(warm_s)
        self._thread: ThreadPoolExecutor | None = None
        self._waits = waits
        self._clear_rows = 0  # so many are known to be within the limits, without a look at the sizes
        self._busy = False  # a turn is booked, or a batch is in the thread

    def enqueue(
        self,
        item: Item,
        caller: Caller[Result],
        rows: int = 1,
        priority: Priority = Priority.LIVE,
        deadline_s: float | None = None,
    ) -> None:
        """Queues one item of `rows` rows; its result comes with the batch it joins.

        Args:
            caller: gets the result, or the failure, on the loop's thread. Its methods must not raise.
            deadline_s: the moment of the batcher's clock after which nobody wants the result.

        Raises:
            Overloaded: where the rows waiting would become more than may wait.
            DeadlineExceeded: where it is too late already; to the caller, where that happens while it waits.
        """
        now_s = self._clock_s()
        if deadline_s is not None and now_s >= deadline_s:
            raise too_late(now_s - deadline_s)
        self.check(rows)
        trace = tracing.current.get() if tracing.tracing else None
        self._queue.put(Entry(item, rows, caller, now_s, deadline_s, trace), priority)
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._turn)

    def check(self, rows: int = 1) -> None:
        """Whether `rows` more would be taken, for who wants to know before the work of decoding them.

        Raises:
            Overloaded: where they would not.
        """
        waiting = self._queue.rows
        if not waiting or waiting + rows <= self._clear_rows:
            return
        if waiting + rows > self._limits.max_queue:
            self._metrics.overloaded.inc()
            raise Overloaded(f"queue full: {waiting} rows wait of at most {self._limits.max_queue}; try again later")
        took_s = self._expected_s(waiting + rows)
        if took_s > self._limits.max_wait_s and took_s > 2 * self._whole_pace.expected_s(1):
            self._metrics.overloaded.inc()
            most_ms = self._limits.max_wait_s * 1000
            raise Overloaded(
                f"queue full: {waiting} rows wait; with these it would take {took_s * 1000:.0f} ms, "
                f"wanted at most {most_ms:.0f} ms; try again later"
            )

    def close(self) -> None:
        """Waits for the batch in the thread, if there is one, and ends the thread."""
        if self._thread:
            self._thread.shutdown()

    def _expected_s(self, rows: int) -> float:
        full, rest = divmod(rows, self._limits.max_batch)
        expected_s = full * self._whole_pace.expected_s(self._limits.max_batch)
        return expected_s + self._whole_pace.expected_s(rest) if rest else expected_s

    def _turn(self) -> None:
        self._metrics.waiting.set(self._queue.rows)
        batch = self._queue.take(self._clock_s())
        if batch:
            self._start(batch)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._busy = bool(self._queue)
        if self._busy:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._metrics.waiting.set(0)

    def _start(self, batch: list[Entry[Item, Result]]) -> None:
        rows = sum(entry.rows for entry in batch)
        self._metrics.rows.observe(rows)
        started_s = self._clock_s()
        try:
            load = self._prepare([entry.item for entry in batch])
            prepared_s = self._clock_s() - started_s
            if self._waits or self._compute_pace.slow(rows):
                if self._thread is None:
                    self._thread = ThreadPoolExecutor(1, "vigil-model")
                running = asyncio.get_running_loop().run_in_executor(self._thread, self._time, load)
                running.add_done_callback(lambda done: self._on_computed(batch, rows, load, prepared_s, done))
                return
            output, compute_s = self._time(load)
            self._answer(batch, rows, load, output, prepared_s, compute_s)
        except Exception as failure:
            self._on_failure(batch, failure)
        self._go_on()

    def _time(self, load: Load) -> tuple[Output, float]:
        started_s = self._clock_s()
        output = self._compute(load)
        return output, self._clock_s() - started_s

    def _on_computed(
        self,
        batch: list[Entry[Item, Result]],
        rows: int,
        load: Load,
        prepared_s: float,
        done: asyncio.Future[tuple[Output, float]],
    ) -> None:
        try:
            output, compute_s = done.result()
            self._answer(batch, rows, load, output, prepared_s, compute_s)
        except Exception as failure:
            self._on_failure(batch, failure)
        self._go_on()

    def _answer(
        self,
        batch: list[Entry[Item, Result]],
        rows: int,
        load: Load,
        output: Output,
        prepared_s: float,
        compute_s: float,
    ) -> None:
        computed_s = self._clock_s()
        results = self._finish([entry.item for entry in batch], load, output)
        if tracing.tracing:
            self._trace(batch, rows, computed_s, prepared_s, compute_s)
        for entry, result in zip(batch, results, strict=True):
            if not entry.caller.done():
                if isinstance(result, Exception):
                    entry.caller.set_exception(result)
                else:
                    entry.caller.set_result(result)
        self._compute_pace.observe(rows, compute_s)
        self._whole_pace.observe(rows, prepared_s + compute_s + self._clock_s() - computed_s)
        batches = int(self._limits.max_wait_s / max(self._whole_pace.most_s(), 1e-9))
        self._clear_rows = min(batches * self._limits.max_batch, self._limits.max_queue)

    def _trace(
        self, batch: list[Entry[Item, Result]], rows: int, computed_s: float, prepared_s: float, compute_s: float
    ) -> None:
        at_s = computed_s - compute_s
        times = tracing.Times(at_s - prepared_s, at_s, computed_s, self._clock_s())
        sampled = [(entry.trace, entry.submitted_s) for entry in batch if entry.trace]
        tracing.trace_batch(self._metrics.domain, self._metrics.what, sampled, len(batch), rows, times)

    def _on_failure(self, batch: list[Entry[Item, Result]], failure: Exception) -> None:
        if len(batch) > 1:
            self._queue.put_alone(batch)
        elif not batch[0].caller.done():
            batch[0].caller.set_exception(failure)
