"""The laws of a bidirectional stream."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from vigil.errors import InvalidInput, Unavailable
from vigil.transports.grpc.streams import MOST_PENDING, Streams


class Caller:
    """The other end of a stream: sends numbers, and takes answers once `reads` is set."""

    def __init__(self, messages: int) -> None:
        self.messages, self.sent = messages, 0
        self.got: list[Any] = []
        self.reads = asyncio.Event()

    async def read(self) -> Any:
        await asyncio.sleep(0)  # a message never comes in the turn it is asked for
        if self.sent == self.messages:
            return grpc.aio.EOF
        self.sent += 1
        return self.sent - 1

    async def write(self, answer: Any) -> None:
        await self.reads.wait()
        self.got.append(answer)


def failed(request: int, code: str, message: str) -> str:
    return f"{request} {code} {message}"


async def settled() -> None:
    """Comes back when whatever can go on has gone as far as it can."""
    for _ in range(20 * MOST_PENDING):
        await asyncio.sleep(0)


class Later:
    """Begins messages and leaves their answers open."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[int]] = []

    def begin(self, request: int, answer: asyncio.Future[int]) -> None:
        self.answers.append(answer)


def at_once(request: int, answer: asyncio.Future[int]) -> None:
    answer.set_result(request)


def test_answers_come_in_the_order_of_the_messages_whichever_is_ready_first() -> None:
    async def main() -> list[Any]:
        caller, later = Caller(10), Later()
        caller.reads.set()
        stream = asyncio.create_task(Streams().in_order(caller, "test", later.begin, failed))
        for i in reversed(range(10)):
            await settled()
            later.answers[i].set_result(i)
        await stream
        return caller.got

    assert asyncio.run(main()) == list(range(10))


def test_messages_read_while_an_answer_is_written_are_begun_together() -> None:
    async def main() -> list[list[int]]:
        caller, begun_together = Caller(10), [[]]

        def begin(request: int, answer: asyncio.Future[int]) -> None:
            if not begun_together[-1]:
                asyncio.get_running_loop().call_soon(begun_together.append, [])
            begun_together[-1].append(request)
            at_once(request, answer)

        stream = asyncio.create_task(Streams().in_order(caller, "test", begin, failed))
        await settled()  # the first answer cannot be written yet
        caller.reads.set()
        await stream
        return begun_together

    assert asyncio.run(main())[:2] == [[0], list(range(1, 10))]


def test_a_failure_is_answered_in_its_place() -> None:
    def begin(request: int, answer: asyncio.Future[int]) -> None:
        if request == 1:
            raise InvalidInput("got 1, wanted another")
        if request == 2:
            answer.set_exception(RuntimeError("a secret"))
        else:
            at_once(request, answer)

    async def main() -> list[Any]:
        caller = Caller(4)
        caller.reads.set()
        await Streams().in_order(caller, "test", begin, failed)
        return caller.got

    first, invalid, internal, last = asyncio.run(main())
    assert (first, invalid, last) == (0, "1 INVALID_ARGUMENT got 1, wanted another", 3)
    assert internal == "2 INTERNAL internal error; the server's log has the details"


def test_a_caller_that_takes_no_answers_is_not_read_from() -> None:
    async def main() -> tuple[int, list[int]]:
        caller = Caller(10 * MOST_PENDING)
        stream = asyncio.create_task(Streams().in_order(caller, "test", at_once, failed))
        await settled()
        sent = caller.sent
        caller.reads.set()
        await stream
        return sent, caller.got

    sent, got = asyncio.run(main())
    assert sent <= MOST_PENDING + 2
    assert got == list(range(10 * MOST_PENDING))


def test_a_stream_that_is_cancelled_cancels_what_it_waits_for() -> None:
    async def main() -> list[bool]:
        caller, later = Caller(5), Later()
        stream = asyncio.create_task(Streams().in_order(caller, "test", later.begin, failed))
        await settled()
        stream.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream
        return [answer.cancelled() for answer in later.answers]

    assert asyncio.run(main()) == [True] * 5


def test_a_stopping_server_answers_what_it_has_read_and_ends_the_stream() -> None:
    async def main() -> tuple[list[int], int]:
        streams, caller, later = Streams(), Caller(10 * MOST_PENDING), Later()
        stream = asyncio.create_task(streams.in_order(caller, "test", later.begin, failed))
        await settled()
        streams.stop()
        caller.reads.set()
        for i, answer in enumerate(later.answers):
            answer.set_result(i)
        with pytest.raises(Unavailable, match="the server stops"):
            await stream
        return caller.got, caller.sent

    got, sent = asyncio.run(main())
    assert got == list(range(sent))
