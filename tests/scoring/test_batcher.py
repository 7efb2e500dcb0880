"""The laws of batching."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from vigil.errors import DeadlineExceeded, InvalidInput, Overloaded
from vigil.observe.metrics import BatchMetrics
from vigil.scoring.batcher import Batcher, Limits
from vigil.scoring.caller import future_of
from vigil.scoring.queue import BULK_WAIT_S, Priority


class Doubler:
    """Doubles numbers, refuses negative ones, and remembers batches, threads and moments.

    Args:
        warm_s: what its warm-up is said to have taken: above a millisecond it is slow.
        gated: its computation waits for `gate` to be set.
    """

    def __init__(
        self, max_batch: int = 100, max_queue: int = 100, warm_s: float = 0.0, gated: bool = False, wait_s: float = 1e9
    ) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[tuple[str, threading.Thread]] = []
        self.now_s = 0.0
        self.gate = threading.Event()
        self.item_s = 0.0
        self.computing = 0
        self.most_computing = 0
        if not gated:
            self.gate.set()
        self.batcher: Batcher[int, list[int], list[int], int] = Batcher(
            self.prepare,
            self.compute,
            self.finish,
            Limits(max_batch, max_queue, wait_s),
            BatchMetrics("test", "rows"),
            warm_s,
            lambda: self.now_s,
        )

    def submit(self, item: int, *arguments: Any, **options: Any) -> asyncio.Future[int]:
        return future_of(lambda caller: self.batcher.enqueue(item, caller, *arguments, **options))

    def prepare(self, items: Sequence[int]) -> list[int]:
        self.computing += 1
        self.most_computing = max(self.most_computing, self.computing)
        self.threads.append(("prepare", threading.current_thread()))
        self.batches.append(list(items))
        return list(items)

    def compute(self, items: list[int]) -> list[int]:
        self.now_s += self.item_s * len(items)
        self.threads.append(("compute", threading.current_thread()))
        assert self.gate.wait(60)
        self.computing -= 1
        if any(item < 0 for item in items):
            raise InvalidInput(f"got {items}")
        return [2 * item for item in items]

    def finish(self, items: Sequence[int], load: list[int], output: list[int]) -> list[int]:
        self.threads.append(("finish", threading.current_thread()))
        return output


SLOW_S = 1.0


def in_loop(body: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await body()

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


both = pytest.mark.parametrize("warm_s", [0.0, SLOW_S], ids=["on the loop", "in the thread"])


@both
def test_what_comes_in_one_turn_goes_through_together_in_order(warm_s: float) -> None:
    doubler = Doubler(warm_s=warm_s)

    async def body() -> list[int]:
        return await asyncio.gather(*(doubler.submit(i) for i in range(5)))

    assert in_loop(body) == [0, 2, 4, 6, 8]
    assert doubler.batches == [[0, 1, 2, 3, 4]]


def test_a_fast_model_stays_on_the_loop_and_answers_in_the_next_turn() -> None:
    doubler = Doubler()

    async def body() -> None:
        future = doubler.submit(1)
        await asyncio.sleep(0)
        assert future.result() == 2

    in_loop(body)
    assert {thread for _, thread in doubler.threads} == {threading.current_thread()}


def test_a_slow_model_leaves_the_loop_which_prepares_and_finishes() -> None:
    doubler = Doubler(warm_s=SLOW_S)
    in_loop(lambda: doubler.submit(1))
    own = [stage for stage, thread in doubler.threads if thread is threading.current_thread()]
    assert own == ["prepare", "finish"]


def test_while_a_slow_model_runs_the_next_batch_fills() -> None:
    doubler = Doubler(warm_s=SLOW_S, gated=True)

    async def body() -> list[int]:
        first = doubler.submit(0)
        await until(lambda: doubler.computing == 1)
        rest = []
        for i in range(1, 5):
            rest.append(doubler.submit(i))
            await asyncio.sleep(0)
        doubler.gate.set()
        return await asyncio.gather(first, *rest)

    assert in_loop(body) == [0, 2, 4, 6, 8]
    assert doubler.batches == [[0], [1, 2, 3, 4]]


def test_there_is_never_more_than_one_batch_under_way() -> None:
    doubler = Doubler(max_batch=2, warm_s=SLOW_S)

    async def body() -> None:
        waiting = []
        for i in range(50):
            waiting.append(doubler.submit(i))
            if i % 3:
                await asyncio.sleep(0)
        await asyncio.gather(*waiting)

    in_loop(body)
    assert doubler.most_computing == 1
    assert [item for batch in doubler.batches for item in batch] == list(range(50))


def test_a_batch_holds_no_more_rows_than_allowed() -> None:
    doubler = Doubler(max_batch=4)

    async def body() -> None:
        await asyncio.gather(*(doubler.submit(i, rows=2) for i in range(5)))

    in_loop(body)
    assert doubler.batches == [[0, 1], [2, 3], [4]]


def test_a_submission_larger_than_a_batch_goes_alone() -> None:
    doubler = Doubler(max_batch=4)

    async def body() -> None:
        await asyncio.gather(doubler.submit(1), doubler.submit(2, rows=9), doubler.submit(3))

    in_loop(body)
    assert doubler.batches == [[1], [2], [3]]


def test_a_full_queue_refuses_and_then_takes_again() -> None:
    doubler = Doubler(max_queue=3)

    async def body() -> int:
        taken = [doubler.submit(i) for i in range(3)]
        with pytest.raises(Overloaded, match="3 rows wait of at most 3"):
            doubler.submit(9)
        with pytest.raises(Overloaded, match="3 rows wait of at most 3"):
            doubler.batcher.check()
        await asyncio.gather(*taken)
        doubler.batcher.check()
        return await doubler.submit(9)

    assert in_loop(body) == 18


def test_a_submission_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    doubler = Doubler(max_queue=3)

    async def body() -> int:
        alone = doubler.submit(1, rows=10)
        with pytest.raises(Overloaded):
            doubler.submit(2)
        return await alone

    assert in_loop(body) == 2


def test_what_would_take_too_long_at_the_measured_pace_is_refused() -> None:
    doubler = Doubler(wait_s=0.02)
    doubler.item_s = 0.032

    async def body() -> None:
        for _ in range(50):  # from here on a batch of 32 to 63 rows is known to take 32 ms
            await doubler.submit(1, rows=32)
        taken = doubler.submit(1, rows=31)
        with pytest.raises(Overloaded, match="31 rows wait; with these it would take 32 ms, wanted at most 20 ms"):
            doubler.submit(9)
        await taken
        assert await doubler.submit(1, rows=32) == 2  # nothing waits: taken

    in_loop(body)


def test_a_model_slower_than_the_wait_allowed_is_not_a_queue() -> None:
    doubler = Doubler(warm_s=0.05, wait_s=0.02)

    async def body() -> None:
        await asyncio.gather(*(doubler.submit(i) for i in range(100)))

    in_loop(body)
    assert sum(map(len, doubler.batches)) == 100


@both
def test_a_failure_reaches_only_its_own_caller(warm_s: float) -> None:
    doubler = Doubler(warm_s=warm_s)

    async def body() -> list[Any]:
        return await asyncio.gather(*(doubler.submit(i) for i in (1, -2, 3)), return_exceptions=True)

    first, second, third = in_loop(body)
    assert (first, third) == (2, 6)
    assert isinstance(second, InvalidInput)
    assert str(second) == "got [-2]"


def test_a_caller_that_has_gone_is_dropped() -> None:
    doubler = Doubler()

    async def body() -> list[int]:
        futures = [doubler.submit(i) for i in range(3)]
        futures[1].cancel()
        return await asyncio.gather(futures[0], futures[2])

    assert in_loop(body) == [0, 4]
    assert doubler.batches == [[0, 2]]


def test_a_caller_that_goes_while_its_batch_runs_disturbs_nobody() -> None:
    doubler = Doubler(warm_s=SLOW_S, gated=True)

    async def body() -> int:
        gone, stays = doubler.submit(1), doubler.submit(2)
        await until(lambda: doubler.computing == 1)
        gone.cancel()
        doubler.gate.set()
        return await stays

    assert in_loop(body) == 4


def test_nothing_runs_when_every_caller_has_gone() -> None:
    doubler = Doubler()

    async def body() -> int:
        doubler.submit(1).cancel()
        await asyncio.sleep(0)
        return await doubler.submit(5)

    assert in_loop(body) == 10
    assert doubler.batches == [[5]]


def test_what_is_late_when_its_turn_comes_is_refused_without_running() -> None:
    doubler = Doubler()

    async def body() -> list[Any]:
        futures = [doubler.submit(i, deadline_s=deadline) for i, deadline in enumerate((None, 1.0, 2.0))]
        doubler.now_s = 1.5
        return await asyncio.gather(*futures, return_exceptions=True)

    first, second, third = in_loop(body)
    assert (first, third) == (0, 4)
    assert isinstance(second, DeadlineExceeded)
    assert str(second) == "deadline passed 500.0 ms before this could run; nothing was computed"
    assert doubler.batches == [[0, 2]]


def test_what_is_late_when_it_comes_is_refused_at_once() -> None:
    doubler = Doubler()

    async def body() -> None:
        doubler.now_s = 1.0
        with pytest.raises(DeadlineExceeded):
            doubler.submit(1, deadline_s=1.0)

    in_loop(body)
    assert doubler.batches == []


def test_live_goes_before_bulk_and_each_keeps_its_order() -> None:
    doubler = Doubler(max_batch=2)

    async def body() -> None:
        await asyncio.gather(
            *(doubler.submit(i, priority=Priority.BULK) for i in (1, 2)),
            *(doubler.submit(i) for i in (3, 4, 5)),
        )

    in_loop(body)
    assert doubler.batches == [[3, 4], [5, 1], [2]]


def test_bulk_that_has_waited_long_goes_first() -> None:
    doubler = Doubler(max_batch=1)

    async def body() -> None:
        bulk = doubler.submit(1, priority=Priority.BULK)
        doubler.now_s = 1.01 * BULK_WAIT_S
        await asyncio.gather(bulk, doubler.submit(2))

    in_loop(body)
    assert doubler.batches == [[1], [2]]


def test_close_waits_for_the_batch_under_way() -> None:
    doubler = Doubler(warm_s=SLOW_S)

    async def body() -> int:
        future = doubler.submit(1)
        await until(lambda: len(doubler.batches) == 1)
        doubler.batcher.close()
        assert doubler.computing == 0
        return await future

    assert in_loop(body) == 2
