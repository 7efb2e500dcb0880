"""What ends connections that hold on to nothing: idle ones, slow senders, readers that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import perf_counter
from typing import Any

INTERVAL_S = 0.5


def bound_handshakes(loop: asyncio.AbstractEventLoop, stall_s: float) -> None:
    """Ends TLS handshakes and TLS closes within `stall_s`, of servers opened by `loop` from here on.

    uvicorn leaves them 60 and 30 seconds. No connection is seen by the sweep before its handshake.
    """
    create = loop.create_server

    def bounded(*args: Any, **given: Any) -> Any:
        if given.get("ssl"):
            given |= {"ssl_handshake_timeout": stall_s, "ssl_shutdown_timeout": stall_s}
        return create(*args, **given)

    loop.create_server = bounded  # type: ignore[method-assign]


class Swept:
    """A connection that can tell whether it does nothing but hold on."""

    def overdue(self, now_s: float, stall_s: float) -> bool:
        """Whether it shall be evicted, at `now_s` of `time.perf_counter`."""
        raise NotImplementedError

    def evict(self) -> None:
        """Ends it."""
        raise NotImplementedError


class Sweep:
    """Looks at all connections twice a second while there are any: a timer for each would cost more than an answer.

    Args:
        stall_s: how long a request may take to arrive, and an answer to be taken.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._going = False

    def watch(self, loop: asyncio.AbstractEventLoop, connections: Iterable[Any]) -> None:
        """Begins, where it has not, to look at `connections`, whose set may change."""
        if not self._going:
            self._going = True
            loop.call_later(INTERVAL_S, self._look, loop, connections)

    def _look(self, loop: asyncio.AbstractEventLoop, connections: Iterable[Any]) -> None:
        now_s = perf_counter()
        for connection in [each for each in connections if isinstance(each, Swept)]:
            if connection.overdue(now_s, self._stall_s):
                connection.evict()
        self._going = False
        if any(True for _ in connections):
            self.watch(loop, connections)
