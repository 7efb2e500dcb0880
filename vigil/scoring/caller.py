"""Who waits for a result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from vigil.errors import Overloaded

Result = TypeVar("Result")
Given = TypeVar("Given", contravariant=True)
Answer = TypeVar("Answer")


class Caller(Protocol[Given]):
    """Gets one result, or the failure in its place; an `asyncio.Future` is one.

    `done` is true where nothing is wanted any more: it has been given, or the caller has gone.
    """

    def done(self) -> bool: ...

    def set_result(self, result: Given, /) -> None: ...

    def set_exception(self, failure: Exception, /) -> None: ...


def future_of(begin: Callable[[Caller[Result]], None]) -> asyncio.Future[Result]:
    """A future of what `begin` lets a caller have; for code that awaits it. Needs a running loop."""
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    begin(future)
    return future


# Rows of a large call that are worked on at once, so that small ones have their turn in between.
PIECE_ROWS = 128
PAUSE_S = 0.005
LOOK_S = 0.05  # how often it is looked whether the caller of a large call is still there
_running: set[asyncio.Task[Any]] = set()


def pieces(count: int) -> Iterator[slice]:
    """Places of the pieces of `count` rows."""
    return (slice(start, start + PIECE_ROWS) for start in range(0, count, PIECE_ROWS))


def run_for(caller: Caller[Result], work: Coroutine[Any, Any, Result]) -> None:
    """Lets a caller have what a coroutine returns or raises. Needs a running loop, which it shall often let go on.

    The coroutine is cancelled soon after its caller has gone: what it holds counts against no budget any more.
    """
    loop = asyncio.get_running_loop()

    def give(task: asyncio.Task[Result]) -> None:
        _running.discard(task)
        if task.cancelled() or caller.done():
            if not task.cancelled():
                task.exception()  # looked at, so that asyncio does not report it as lost
            return
        failure = task.exception()
        if failure is None:
            caller.set_result(task.result())
        elif isinstance(failure, Exception):
            caller.set_exception(failure)

    def look() -> None:
        if caller.done():
            task.cancel()
        elif not task.done():
            loop.call_later(LOOK_S, look)

    task = loop.create_task(work)
    _running.add(task)  # the loop does not hold it
    task.add_done_callback(give)
    loop.call_later(LOOK_S, look)


async def one_by_one(
    parts: Sequence[slice], begin: Callable[[slice, Caller[Result]], None], caller: Caller[Any]
) -> list[Result]:
    """The results of pieces, each begun when the one before has its result.

    What has no room, once the first was taken, waits for it.

    Args:
        parts: places of the pieces.
        begin: lets a caller have the result of a piece, or raises Overloaded.
        caller: who waits for all; once it is gone, no other piece is begun.

    Raises:
        Overloaded: where there is no room for the first.
    """
    results = list[Result]()
    for part in parts:
        while not caller.done():
            future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            try:
                begin(part, future)
            except Overloaded:
                if not results:
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            results.append(await future)
            break
    return results


class Then(Generic[Result, Answer]):
    """A caller that converts its result for another one, at once and in the same thread.

    Args:
        caller: who waits for what `convert` makes.
        convert: of a result; what it raises is the other one's failure.
    """

    __slots__ = ("_caller", "_convert", "done", "set_exception")

    def __init__(self, caller: Caller[Answer], convert: Callable[[Result], Answer]) -> None:
        self._caller, self._convert = caller, convert
        self.done, self.set_exception = caller.done, caller.set_exception

    def set_result(self, result: Result, /) -> None:
        try:
            answer = self._convert(result)
        except Exception as failure:
            self.set_exception(failure)
        else:
            self._caller.set_result(answer)
