"""Load at a constant rate of arrivals, whether or not the server keeps up.

A latency runs from when the request was due, so that a server that stalls does not hide it.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import cast

import numpy as np
import uvloop

from loadtest.outcome import Outcome, outcome
from loadtest.wires import Wire

TICK_S = 0.001


class Pacer:
    """Requests that fall due at a constant rate, sent in steps of a millisecond over connections that are free."""

    def __init__(self, rate_per_s: float, seconds: float) -> None:
        self.total = int(rate_per_s * seconds)
        self._rate_per_s = rate_per_s
        self._free: deque[Connection] = deque()
        self._due_s: deque[float] = deque()
        self._sent = 0
        self.statuses: list[int] = []
        self.took_ms: list[float] = []

    async def run(self) -> None:
        """Sends all that fall due, then waits for what is under way, two seconds at most."""
        started_s = perf_counter()
        while self._sent < self.total:
            due = min(int((perf_counter() - started_s) * self._rate_per_s), self.total)
            while self._sent < due:
                self._due_s.append(started_s + self._sent / self._rate_per_s)
                self._sent += 1
            self._serve()
            await asyncio.sleep(TICK_S)
        until_s = perf_counter() + 2
        while len(self.statuses) < self.total and perf_counter() < until_s:
            await asyncio.sleep(TICK_S)

    def answered(self, connection: Connection, status: int, due_s: float) -> None:
        """Takes the answer to a request that was due then, and the connection back."""
        self.statuses.append(status)
        self.took_ms.append((perf_counter() - due_s) * 1e3)
        self.freed(connection)

    def freed(self, connection: Connection) -> None:
        """Takes a connection that has nothing under way."""
        self._free.append(connection)
        if self._due_s:
            self._serve()

    def _serve(self) -> None:
        while self._due_s and self._free:
            self._free.popleft().send(self._due_s.popleft())


class Connection(asyncio.Protocol):
    """One kept connection with one request under way at most."""

    def __init__(self, wire: Wire, pacer: Pacer) -> None:
        self._wire, self._pacer, self._due_s = wire, pacer, 0.0
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if opening := self._wire.opening():
            self._transport.write(opening)
        self._pacer.freed(self)

    def send(self, due_s: float) -> None:
        """Sends a request that was due then."""
        self._due_s = due_s
        self._transport.write(self._wire.request())

    def data_received(self, data: bytes) -> None:
        statuses, back = self._wire.take(data)
        if back:
            self._transport.write(back)
        for status in statuses:
            self._pacer.answered(self, status, self._due_s)

    def close(self) -> None:
        """Ends it."""
        self._transport.close()


def paced(
    wire: Callable[[], Wire], host: str, port: int, rate_per_s: float, seconds: float, connections: int = 64
) -> Outcome:
    """Sends `rate_per_s` requests a second over `connections` kept connections.

    Args:
        wire: makes a connection's side of the protocol.

    Raises:
        OSError: where nothing listens there.
    """
    pacer = Pacer(rate_per_s, seconds)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        made = [await loop.create_connection(lambda: Connection(wire(), pacer), host, port) for _ in range(connections)]
        await pacer.run()
        for _, connection in made:
            connection.close()

    gc.collect()
    gc.disable()
    try:
        uvloop.run(run())
    finally:
        gc.enable()
    return outcome(np.array(pacer.statuses, np.int64), np.array(pacer.took_ms), seconds, pacer.total)
