"""The laws of a bidirectional stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from vigil.errors import InvalidInput, Unavailable
from vigil.transports.grpc.streams import MOST_PENDING, Streams


class Caller:
    """The other end of a stream: sends numbers, and takes answers once `reads` is set."""

    def __init__(self, messages: int) -> None:
        self.messages, self.sent = messages, 0
        self.got: list[Any] = []
        self.reads = asyncio.Event()

    async def requests(self) -> AsyncIterator[int]:
        for i in range(self.messages):
            self.sent += 1
            yield i

    async def write(self, answer: Any) -> None:
        await self.reads.wait()
        self.got.append(answer)


def failed(request: int, code: str, message: str) -> str:
    return f"{request} {code} {message}"


async def settled() -> None:
    """Comes back when whatever can go on has gone as far as it can."""
    for _ in range(20 * MOST_PENDING):
        await asyncio.sleep(0)


def test_answers_come_in_the_order_of_the_messages_whichever_is_ready_first() -> None:
    async def main() -> list[Any]:
        caller, turns = Caller(10), [asyncio.Event() for _ in range(11)]

        async def answer(request: int) -> int:
            await turns[request + 1].wait()  # the last is ready first
            turns[request].set()
            return request

        caller.reads.set()
        turns[10].set()
        await Streams().in_order(caller.requests(), caller, "test", answer, failed)
        return caller.got

    assert asyncio.run(main()) == list(range(10))


def test_a_failure_is_answered_in_its_place() -> None:
    async def answer(request: int) -> int:
        if request == 1:
            raise InvalidInput("got 1, wanted another")
        if request == 2:
            raise RuntimeError("a secret")
        return request

    async def main() -> list[Any]:
        caller = Caller(4)
        caller.reads.set()
        await Streams().in_order(caller.requests(), caller, "test", answer, failed)
        return caller.got

    first, invalid, internal, last = asyncio.run(main())
    assert (first, invalid, last) == (0, "1 INVALID_ARGUMENT got 1, wanted another", 3)
    assert internal == "2 INTERNAL internal error; the server's log has the details"


def test_a_caller_that_takes_no_answers_is_not_read_from() -> None:
    async def answer(request: int) -> int:
        return request

    async def main() -> tuple[int, list[int]]:
        caller = Caller(10 * MOST_PENDING)
        stream = asyncio.create_task(Streams().in_order(caller.requests(), caller, "test", answer, failed))
        await settled()
        sent = caller.sent
        caller.reads.set()
        await stream
        return sent, caller.got

    sent, got = asyncio.run(main())
    assert sent <= MOST_PENDING + 2
    assert got == list(range(10 * MOST_PENDING))


def test_a_stream_that_is_cancelled_cancels_what_it_waits_for() -> None:
    async def main() -> int:
        caller, cancelled = Caller(5), []

        async def answer(request: int) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(request)
                raise

        stream = asyncio.create_task(Streams().in_order(caller.requests(), caller, "test", answer, failed))
        await settled()
        stream.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream
        return len(cancelled)

    assert asyncio.run(main()) == 5


def test_a_stopping_server_answers_what_it_has_read_and_ends_the_stream() -> None:
    async def main() -> tuple[list[int], int]:
        streams, caller, ready = Streams(), Caller(10 * MOST_PENDING), asyncio.Event()

        async def answer(request: int) -> int:
            await ready.wait()
            return request

        stream = asyncio.create_task(streams.in_order(caller.requests(), caller, "test", answer, failed))
        await settled()
        streams.stop()
        caller.reads.set()
        ready.set()
        with pytest.raises(Unavailable, match="the server stops"):
            await stream
        return caller.got, caller.sent

    got, sent = asyncio.run(main())
    assert got == list(range(sent))
