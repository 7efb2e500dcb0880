"""Bidirectional streams: an answer a message, in order, while later messages are already read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from vigil.errors import Unavailable
from vigil.observe.calls import Call
from vigil.transports.grpc.answers import GRPC, status_of

# Messages of one stream on their way: enough to fill batches. A caller that does not read its answers
# is not read from either, so it cannot make the server hold more than this.
MOST_PENDING = 256


Begin = Callable[[Any, asyncio.Future[Any]], None]
Failed = Callable[[Any, str, str], Any]


class Streams:
    """The open streams of a server."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Task[None]] = set()
        self._stopping = False

    def stop(self) -> None:
        """Reads no further: each stream answers what it has read and then ends with UNAVAILABLE."""
        self._stopping = True
        for reader in self._readers:
            reader.cancel()

    async def in_order(self, context: Any, name: str, begin: Begin, failed: Failed) -> None:
        """Answers each message of a stream at its place. One that fails gets its own answer and the stream goes on.

        Args:
            context: of the call; gives the messages and takes the answers.
            name: of the method, for metrics and the log.
            begin: lets a future have the answer to a message, or raises. Called in the order of the messages.
            failed: the answer to a message that failed, from it, the status's name and the message to its caller.

        Raises:
            Unavailable: after the answers, where the server stops before the caller has ended the stream.
        """
        stream = _Stream(context, name, begin, failed)
        reader = asyncio.create_task(stream.read())
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        reader.add_done_callback(stream.ended)
        try:
            await stream.write()
        finally:
            reader.cancel()
            stream.drop()
        if reader.cancelled():
            if not self._stopping:  # by the caller
                raise asyncio.CancelledError
            raise Unavailable("the server stops: got all answers up to here, send the rest elsewhere")
        reader.result()


class _Stream:
    """One stream. What is read while answers are written is begun together, so that it shares a batch."""

    def __init__(self, context: Any, name: str, begin: Begin, failed: Failed) -> None:
        self._context, self._name, self._begin, self._failed = context, name, begin, failed
        self._loop = asyncio.get_running_loop()
        self._read: deque[tuple[Any, Call]] = deque()
        self._begun: deque[tuple[Any, Call, asyncio.Future[Any]]] = deque()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._writing = self._over = False

    async def read(self) -> None:
        """Takes messages while there is room. Between a message and its place nothing waits, so none is lost."""
        read = self._context.read
        while (request := await read()) is not grpc.aio.EOF:
            self._read.append((request, Call(GRPC)))
            if not self._writing:
                self._begin_all()
            self._news.set()
            while len(self._read) + len(self._begun) >= MOST_PENDING:
                self._room.clear()
                await self._room.wait()

    def ended(self, reader: asyncio.Task[None]) -> None:
        """No message comes any more."""
        self._over = True
        self._news.set()

    def drop(self) -> None:
        """Cancels what nobody waits for any more."""
        for _, call in self._read:
            call.leave()
        for _, call, begun in self._begun:
            call.leave()
            if not begun.cancel() and not begun.cancelled():
                begun.exception()  # looked at, so that asyncio does not report it as lost

    async def write(self) -> None:
        """Gives the answers, until all messages have theirs and no more come."""
        while True:
            self._begin_all()
            if self._begun:
                await self._write_ready()
            elif self._over:
                return
            else:
                self._news.clear()
                await self._news.wait()

    async def _write_ready(self) -> None:
        """Waits for the oldest answer and writes it, with those after it that are ready then."""
        try:
            while self._begun:
                request, call, begun = self._begun[0]
                if not begun.done():
                    if self._writing:
                        return
                    await asyncio.wait((begun,))
                self._begun.popleft()
                self._room.set()
                self._writing = True
                await self._context.write(self._answer(request, call, begun))
        finally:
            self._writing = False

    def _begin_all(self) -> None:
        while self._read:
            request, call = self._read.popleft()
            future = self._loop.create_future()
            self._begun.append((request, call, future))
            try:
                self._begin(request, future)
            except Exception as failure:
                future.set_exception(failure)

    def _answer(self, request: Any, call: Call, begun: asyncio.Future[Any]) -> Any:
        code = "OK"
        try:
            return begun.result()
        except Exception as failure:
            code, message = status_of(failure, self._name)
            return self._failed(request, code, message)
        finally:
            call.end(self._name, code)
