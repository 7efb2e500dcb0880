"""Bidirectional streams: an answer a message, in order, while later messages are already read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

from vigil import metrics
from vigil.transports.grpc.answers import status_of

# Messages of one stream on their way: enough to fill batches. A caller that does not read its answers
# is not read from either, so it cannot make the server hold more than this.
MOST_PENDING = 256

Answer = Callable[[Any], Awaitable[Any]]
Failed = Callable[[Any, str, str], Any]


async def in_order(requests: AsyncIterator[Any], context: Any, name: str, answer: Answer, failed: Failed) -> None:
    """Answers each message of a stream at its place. One that fails gets its own answer and the stream goes on.

    Args:
        requests: the caller's messages.
        context: of the call; takes the answers.
        name: of the method, for metrics and the log.
        answer: the answer to a message. Called in the order of the messages, all before the first `await`
            inside happens in that order.
        failed: the answer to a message that failed, from it, the status's name and the message to its caller.
    """

    async def one(request: Any) -> Any:
        started_s, code = perf_counter(), "OK"
        try:
            return await answer(request)
        except Exception as failure:
            code, message = status_of(failure, name)
            return failed(request, code, message)
        finally:
            metrics.answered("grpc", name, code, started_s)

    pending: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(MOST_PENDING)

    async def read(group: asyncio.TaskGroup) -> None:
        async for request in requests:
            await pending.put(group.create_task(one(request)))
        await pending.put(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(read(group))
        while task := await pending.get():
            await context.write(await task)
