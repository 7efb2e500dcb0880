"""Who waits for a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

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
