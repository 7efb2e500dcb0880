"""Which connections are let in."""

from __future__ import annotations

import asyncio
from collections import Counter

from vigil import descriptors
from vigil.settings import Settings

# Connections are refused before the kernel has to, which would not say why.
MARGIN = 16
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Door:
    """Counts the connections of a process. Whoever enters leaves, let in or not.

    Args:
        settings: of them `max_connections` and `max_connections_per_address`.
    """

    def __init__(self, settings: Settings) -> None:
        self._most, self._most_of_one = settings.max_connections, settings.max_connections_per_address
        self._open = 0
        self._of: Counter[str] = Counter()

    def enter(self, transport: asyncio.Transport, address: str) -> bool:
        """Whether there is room for a connection; else it gets `FULL`."""
        self._open += 1
        if self._most_of_one:
            self._of[address] += 1
        connection = transport.get_extra_info("socket")
        return not (
            descriptors.free(connection.fileno()) < MARGIN
            or (self._most and self._open > self._most)
            or (self._most_of_one and self._of[address] > self._most_of_one)
        )

    def leave(self, address: str) -> None:
        """A connection has ended."""
        self._open -= 1
        if self._most_of_one:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]
