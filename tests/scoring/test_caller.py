"""Laws of who waits for a result."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vigil.errors import InvalidInput
from vigil.scoring.caller import Then, run_for


class Waiter:
    """A caller that keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def done(self) -> bool:
        return bool(self.given)

    def set_result(self, result: Any, /) -> None:
        self.given.append(result)

    def set_exception(self, failure: Exception, /) -> None:
        self.given.append(failure)


def test_a_result_is_converted_on_its_way() -> None:
    waiter = Waiter()
    then = Then(waiter, str)
    assert not then.done()
    then.set_result(5)
    assert (waiter.given, then.done()) == (["5"], True)


def test_a_failure_goes_on_as_it_is() -> None:
    waiter, failure = Waiter(), InvalidInput("amount")
    Then(waiter, str).set_exception(failure)
    assert waiter.given == [failure]


@pytest.mark.parametrize("kind", [ValueError, InvalidInput])
def test_what_the_conversion_raises_is_the_failure(kind: type[Exception]) -> None:
    def convert(result: int) -> str:
        raise kind("no")

    waiter = Waiter()
    Then(waiter, convert).set_result(5)
    assert [type(each) for each in waiter.given] == [kind]


def test_work_ends_soon_after_its_caller_has_gone() -> None:
    async def abandoned() -> list[str]:
        waiter, ends = Waiter(), list[str]()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        run_for(waiter, work())
        await asyncio.sleep(0.2)
        assert ends == []
        waiter.given.append("gone")
        await asyncio.sleep(0.5)
        return ends

    assert asyncio.run(abandoned()) == ["cancelled"]
