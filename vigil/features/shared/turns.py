"""Turns: who of several processes with large batches may write to shared state now."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vigil.errors import Unavailable
from vigil.features.shared.connection import Again, Link

LOOK_S = 0.002  # how often one that waits for its turn asks for it at first
TURN_S = 1.0  # how long a turn is taken for: several batches of the largest size
LAST_S = 86_400  # how long it is known who had the last one


class Turn:
    """The turn of one process. Large batches of several would meet for ever without.

    That only saves tries. What is right does not rest on it, so it is waited for no longer than the bound, and
    who has died with it holds it no longer than `TURN_S`.

    Args:
        link: to the server.
        prefix: of all keys.
        timeout_s: the bound.
    """

    def __init__(self, link: Link, prefix: bytes, timeout_s: float) -> None:
        self._link, self._timeout_s = link, timeout_s
        self._key, self._last, self._me = prefix + b"{0}turn", prefix + b"{0}last", secrets.token_bytes(8)
        self._has_it = False

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Waits until no other process has its turn. Gives whether one had it since this one did.

        Who has it already goes on.

        Raises:
            Unavailable: as `Link.call`, before the block begins.
        """
        if self._has_it:
            yield False
            return
        begun_s = time.monotonic()
        take = [(0, ("SET", self._key, self._me, "NX", "PX", round(TURN_S * 1000))), (0, ("GET", self._last))]
        mine, last = self._link.call(take)
        while not mine and (waited_s := time.monotonic() - begun_s) < self._timeout_s:
            time.sleep(random.random() * max(2 * LOOK_S, waited_s / 4))
            mine, last = self._link.call(take)
        self._has_it = bool(mine)
        try:
            yield last != self._me
        finally:
            self._has_it = False
            if mine:
                with suppress(Unavailable, Again):
                    done = ("SET", self._last, self._me, "EX", LAST_S), ("SET", self._key, b"", "PX", 1)
                    self._link.call([(0, words) for words in done])
