"""What all processes with one shared state know together."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress

from vigil.errors import Unavailable
from vigil.features.shared.connection import Again, Link

MEET_S = 1.0  # how often each tells the others and learns from them, where it has anything to do
# KEYS: of the hash. ARGV: the newest event time seen here, a number that may become the seed, seconds that both live.
# Gives both as they are.
MEET = """
local found = redis.call('HMGET', KEYS[1], 'newest', 'seed')
local newest, seed = found[1] or '0', found[2] or ARGV[2]
if not found[2] then redis.call('HSET', KEYS[1], 'seed', seed) end
if tonumber(ARGV[1]) > tonumber(newest) then
  newest = ARGV[1]
  redis.call('HSET', KEYS[1], 'newest', newest)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {newest, seed}
"""


class Common:
    """The newest event's time, and the seed of event keys, which only those who hold the state know.

    Args:
        link: to the server.
        prefix: of all keys.
        live_s: how long it is known once nobody asks any more.

    Attributes:
        newest_ms: of the events that have counted, as far as is known here; 0: none.
        key: of the server's hash that holds both.
        seed: 63 bits; meaningless before the first `meet` that did not fail.
    """

    def __init__(self, link: Link, prefix: bytes, live_s: int) -> None:
        self._live_s = live_s
        self.key, self._link, self._script = prefix + b"{0}common", link, link.script(MEET)
        self.newest_ms = self.seed = 0
        self._met_s: float | None = None

    def saw(self, newest_ms: int) -> None:
        """Takes note of the newest of events that have counted here."""
        self.newest_ms = max(self.newest_ms, newest_ms)

    def meet(self) -> None:
        """Learns from the others and tells them, where that has never been done, or not for a while.

        Raises:
            Unavailable: where that has never been done and the server is away.
        """
        if self._met_s is not None and time.monotonic() - self._met_s < MEET_S:
            return
        try:
            self._learn()
        except Unavailable:
            if self._met_s is None:
                raise

    def set(self, newest_ms: int, seed: int) -> None:
        """Makes these what all know: for who writes a whole state.

        Raises:
            Unavailable: where the server is away.
        """
        self._link.call([(0, ("DEL", self.key))])
        self.newest_ms, self.seed, self._met_s = newest_ms, seed, 0.0
        self.meet()

    def _learn(self) -> None:
        seed = secrets.randbits(63) if self._met_s is None else self.seed
        words = ("EVALSHA", self._script, 1, self.key, self.newest_ms, seed, self._live_s)
        while True:
            with suppress(Again):
                [(newest, seed)] = self._link.call([(0, words)])
                self.newest_ms, self.seed = max(self.newest_ms, int(newest)), int(seed)
                self._met_s = time.monotonic()
                return
