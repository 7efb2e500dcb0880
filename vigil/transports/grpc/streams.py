"""Bidirectional streams: an answer a message, in order, while later messages are already read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

from google.protobuf.message import DecodeError

from vigil import metrics
from vigil.errors import InvalidInput, Unavailable
from vigil.transports.grpc.answers import in_flight, status_of

# Messages of one stream on their way: enough to fill batches. A caller that does not read its answers
# is not read from either, so it cannot make the server hold more than this.
MOST_PENDING = 256

Answer = Callable[[Any], Awaitable[Any]]
Failed = Callable[[Any, str, str], Any]


class Streams:
    """The open streams of a server."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Reads no further: each stream answers what it has read and then ends with UNAVAILABLE."""
        for reader in self._readers:
            reader.cancel()

    async def in_order(
        self, requests: AsyncIterator[Any], context: Any, name: str, answer: Answer, failed: Failed
    ) -> None:
        """Answers each message of a stream at its place. One that fails gets its own answer and the stream goes on.

        Args:
            requests: the caller's messages.
            context: of the call; takes the answers.
            name: of the method, for metrics and the log.
            answer: the answer to a message. Called in the order of the messages: what comes before the
                first `await` in it happens in that order.
            failed: the answer to a message that failed, from it, the status's name and the message to its caller.

        Raises:
            Unavailable: after the answers, where the server stops before the caller has ended the stream.
            InvalidInput: after the answers, where what came next was no message.
        """
        broken = ""
        pending: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        places = asyncio.Semaphore(MOST_PENDING)

        async def read(group: asyncio.TaskGroup) -> None:
            nonlocal broken
            # Between a message and its place in the queue nothing waits, so none that was read is left unanswered.
            try:
                await places.acquire()
                async for request in requests:
                    pending.put_nowait(group.create_task(_one(request, name, answer, failed)))
                    await places.acquire()
            except DecodeError as failure:
                broken = str(failure)
            finally:
                pending.put_nowait(None)

        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read(group))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
            while task := await pending.get():
                await context.write(await task)
                places.release()
        if broken:
            raise InvalidInput(f"message: {broken}; wanted one as the service describes it")
        if reader.cancelled():
            raise Unavailable("the server stops: got all answers up to here, send the rest elsewhere")


async def _one(request: Any, name: str, answer: Answer, failed: Failed) -> Any:
    started_s, code = perf_counter(), "OK"
    in_flight.value += 1
    try:
        return await answer(request)
    except Exception as failure:
        code, message = status_of(failure, name)
        return failed(request, code, message)
    finally:
        in_flight.value -= 1
        metrics.answered("grpc", name, code, started_s)
