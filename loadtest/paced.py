"""Load at a constant rate of arrivals, whether or not the server keeps up; waiting counts as latency."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import numpy as np
import uvloop

from loadtest.wires import OK, Wire

TICK_S = 0.001


@dataclass(frozen=True)
class Paced:
    """One run: requests a second wanted and answered well, their latencies in milliseconds, and failures.

    A latency runs from when the request was due, so that a server that stalls does not hide it.
    """

    wanted_per_s: float
    answered_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


class Pacer:
    """Requests that fall due at a constant rate, sent in steps of a millisecond over connections that are free."""

    def __init__(self, rate_per_s: float, seconds: float) -> None:
        self._rate_per_s, self._seconds = rate_per_s, seconds
        self._free: deque[Connection] = deque()
        self._due_s: deque[float] = deque()
        self._sent = 0
        self.took_s: list[float] = []
        self.errors = 0

    async def run(self) -> None:
        """Sends for `seconds`, then waits for what is under way, two seconds at most."""
        started_s = perf_counter()
        total = int(self._rate_per_s * self._seconds)
        while self._sent < total:
            due = min(int((perf_counter() - started_s) * self._rate_per_s), total)
            while self._sent < due:
                self._due_s.append(started_s + self._sent / self._rate_per_s)
                self._sent += 1
            self._serve()
            await asyncio.sleep(TICK_S)
        until_s = perf_counter() + 2
        while len(self.took_s) + self.errors < total and perf_counter() < until_s:
            await asyncio.sleep(TICK_S)
        self.errors = total - len(self.took_s)

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
            if status == OK:
                self._pacer.took_s.append(perf_counter() - self._due_s)
            else:
                self._pacer.errors += 1
            self._pacer.freed(self)

    def close(self) -> None:
        """Ends it."""
        self._transport.close()


def paced(
    wire: Callable[[], Wire], host: str, port: int, rate_per_s: float, seconds: float, connections: int = 64
) -> Paced:
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
    if not pacer.took_s:
        return Paced(rate_per_s, 0.0, float("inf"), float("inf"), pacer.errors)
    p50, p99 = np.percentile(np.array(pacer.took_s) * 1e3, (50, 99))
    return Paced(rate_per_s, len(pacer.took_s) / seconds, float(p50), float(p99), pacer.errors)
