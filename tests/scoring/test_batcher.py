"""The laws of batching."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from vigil.errors import InvalidInput, Overloaded
from vigil.metrics import BatchMetrics
from vigil.scoring.batcher import Batcher


class Doubler:
    """Doubles numbers, refuses negative ones, and remembers its batches."""

    def __init__(self, max_batch: int = 100, max_queue: int = 100) -> None:
        self.batches: list[list[int]] = []
        self.batcher: Batcher[int, int] = Batcher(self.run, max_batch, max_queue, BatchMetrics("test", "rows"))

    def run(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        if any(item < 0 for item in items):
            raise InvalidInput(f"got {items}")
        return [2 * item for item in items]


def in_loop(body: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await body()

    return asyncio.run(main())


def test_what_comes_in_one_turn_goes_through_together_in_order() -> None:
    doubler = Doubler()

    async def body() -> list[int]:
        return await asyncio.gather(*(doubler.batcher.submit(i) for i in range(5)))

    assert in_loop(body) == [0, 2, 4, 6, 8]
    assert doubler.batches == [[0, 1, 2, 3, 4]]


def test_a_batch_holds_no_more_rows_than_allowed() -> None:
    doubler = Doubler(max_batch=4)

    async def body() -> None:
        await asyncio.gather(*(doubler.batcher.submit(i, rows=2) for i in range(5)))

    in_loop(body)
    assert doubler.batches == [[0, 1], [2, 3], [4]]


def test_a_submission_larger_than_a_batch_goes_alone() -> None:
    doubler = Doubler(max_batch=4)

    async def body() -> None:
        await asyncio.gather(doubler.batcher.submit(1), doubler.batcher.submit(2, rows=9), doubler.batcher.submit(3))

    in_loop(body)
    assert doubler.batches == [[1], [2], [3]]


def test_a_full_queue_refuses_and_then_takes_again() -> None:
    doubler = Doubler(max_queue=3)

    async def body() -> int:
        taken = [doubler.batcher.submit(i) for i in range(3)]
        with pytest.raises(Overloaded, match="3 rows wait of at most 3"):
            doubler.batcher.submit(9)
        await asyncio.gather(*taken)
        return await doubler.batcher.submit(9)

    assert in_loop(body) == 18


def test_a_submission_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    doubler = Doubler(max_queue=3)

    async def body() -> int:
        alone = doubler.batcher.submit(1, rows=10)
        with pytest.raises(Overloaded):
            doubler.batcher.submit(2)
        return await alone

    assert in_loop(body) == 2


def test_a_failure_reaches_only_its_own_caller() -> None:
    doubler = Doubler()

    async def body() -> list[Any]:
        return await asyncio.gather(*(doubler.batcher.submit(i) for i in (1, -2, 3)), return_exceptions=True)

    first, second, third = in_loop(body)
    assert (first, third) == (2, 6)
    assert isinstance(second, InvalidInput)
    assert str(second) == "got [-2]"


def test_a_caller_that_has_gone_is_dropped() -> None:
    doubler = Doubler()

    async def body() -> list[int]:
        futures = [doubler.batcher.submit(i) for i in range(3)]
        futures[1].cancel()
        return await asyncio.gather(futures[0], futures[2])

    assert in_loop(body) == [0, 4]
    assert doubler.batches == [[0, 2]]


def test_nothing_runs_when_every_caller_has_gone() -> None:
    doubler = Doubler()

    async def body() -> int:
        doubler.batcher.submit(1).cancel()
        await asyncio.sleep(0)
        return await doubler.batcher.submit(5)

    assert in_loop(body) == 10
    assert doubler.batches == [[5]]
