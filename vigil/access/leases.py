"""Rate limits that all workers share: each leases tokens ahead from buckets in Redis, in the background.

A worker hands out leased tokens without a round trip. A thread settles with the server: it gives back what is left,
pays what was taken without a lease, and leases as much as the caller is expected to ask for next. A caller
without a lease yet, or any while the server is away, gets this worker's share: the limit divided by the workers.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from vigil.errors import RateLimited, Unavailable
from vigil.observe import metrics

logger = logging.getLogger(__name__)

SETTLE_S = 0.1
LEAST_S = 0.01  # between two round trips
LEAST_PAUSE = 9  # times as long as a round trip took: settling takes at most a tenth of a processor
AHEAD_S = 0.2  # how long a lease lasts at the pace of its caller
MOST_LEASES = {"key": 1000, "address": 250}  # callers beyond them get this worker's share
GROUPS = 128  # as the connection to shared state has
WORKERS = "vigil:{0}rate:workers"
WORKER_S = 3  # a worker not heard of for so long is gone

# KEYS: a bucket. ARGV: rate, burst, tokens owed (below 0: given back), tokens wanted. Gives those granted. The value
# is the time at which the bucket is full again: at most an hour of debt ahead, also when the server's clock jumps.
SETTLE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = math.max(now, tonumber(redis.call('GET', KEYS[1])) or now)
full = math.max(now, math.min(full + ARGV[3] / rate, now + burst / rate + 3600))
local granted = math.max(0, math.min(tonumber(ARGV[4]), burst - (full - now) * rate))
full = full + granted / rate
if full > now then
  redis.call('SET', KEYS[1], string.format('%.6f', full), 'PX', math.ceil((full - now) * 1000))
else
  redis.call('DEL', KEYS[1])
end
return string.format('%.6f', granted)
"""
# KEYS: the workers by when they were last heard of. ARGV: this one, seconds. Gives how many there are.
COUNT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""


Name = str | tuple[str, float, float]  # of a caller; with rate and burst where they are its own
Command = tuple[int, tuple[bytes | str | int, ...] | bytes]  # group of its key, words


class Taker(Protocol):
    """Takes tokens from the bucket of a caller."""

    def take(self, who: Name, cost: float, rate: float, burst: float) -> None:
        """Raises RateLimited where there are not enough."""


class Lender(Protocol):
    """The connection to the servers: `vigil.features.shared.connection.Link`."""

    def script(self, source: str) -> str:
        """The name to call a Lua script by."""

    def open(self) -> None:
        """Loads the scripts."""

    def call(self, commands: Sequence[Command]) -> list[Any]:
        """Runs commands in one round trip. Raises Unavailable."""

    def close(self) -> None:
        """Ends the connections."""


class Lease:
    """Tokens of one caller. The caller's thread counts up `used` and `asked`, the other one `granted`: no lock."""

    __slots__ = (
        "asked",
        "bridged",
        "burst",
        "granted",
        "group",
        "key",
        "low",
        "need",
        "pace",
        "rate",
        "seen",
        "settled_s",
        "used",
    )

    def __init__(self, name: str, rate: float, burst: float, now_s: float) -> None:
        digest = blake2b(name.encode(errors="replace"), digest_size=16)
        self.group = digest.digest()[0] % GROUPS
        self.key = f"vigil:{{{self.group}}}rate:{digest.hexdigest()}"
        self.rate, self.burst = rate, burst
        self.used = self.asked = self.granted = self.seen = self.low = self.pace = 0.0
        self.settled_s = now_s
        self.need = 1.0  # for the largest call that was refused
        # Whether this worker's share is to be had until the server answers: as long as it has not been short of tokens.
        self.bridged = True


class Leases:
    """What settles the leases of a process. `over` gives what callers take from."""

    def __init__(self, lender: Lender, clock_s: Callable[[], float], workers: int) -> None:
        self._lender, self.clock_s = lender, clock_s
        self._least_workers = self.workers = workers
        self._me = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._settle_script, self._count_script = lender.script(SETTLE), lender.script(COUNT)
        self._takers: list[Leasing] = []
        self.is_away = True  # until the server has answered
        self.wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vigil-leases", daemon=True)
        self._thread.start()

    def over(self, local: Taker, kind: str) -> Leasing:
        """Takes from leases, and from `local` what has none."""
        self._takers.append(Leasing(self, local, kind))
        return self._takers[-1]

    def close(self) -> None:
        """Gives back what is left."""
        self._closing.set()
        self.wake.set()
        self._thread.join()
        self._lender.close()

    def _run(self) -> None:
        self._lender.open()
        while not self._closing.is_set():
            began_s = self.clock_s()
            self._try()
            self._closing.wait(max(LEAST_S, LEAST_PAUSE * (self.clock_s() - began_s)))
            self.wake.wait(SETTLE_S)
            self.wake.clear()
        self._try()

    def _try(self) -> None:
        try:
            self._settle()
        except Unavailable as failure:
            self._tell(str(failure))
        except Exception as failure:  # scripts were loaded again, slots have moved: the next turn does it
            logger.debug("leases are settled later: %r", failure)
        else:
            self._tell("")

    def _tell(self, problem: str) -> None:
        metrics.RATE_LIMITS_ALONE.set(1 if problem else 0)
        if self.is_away == bool(problem):
            return
        if problem:
            for taker in self._takers:
                taker.leases = {}  # what was leased and owed is void: the server may come back empty
            logger.error("each worker limits rates by itself, at 1/%d: %s", self.workers, problem)
        else:
            logger.info("rate limits are shared by %d workers", self.workers)
        self.is_away = bool(problem)

    def _settle(self) -> None:
        now_s, closing = self.clock_s(), self._closing.is_set()
        here: tuple[str | int, ...] = ("EVALSHA", self._count_script, 1, WORKERS, self._me, WORKER_S)
        commands: list[Command] = [(0, ("ZREM", WORKERS, self._me) if closing else here)]
        turns: list[tuple[Leasing, Name, Lease, float, float]] = []
        for taker in self._takers:
            for who, lease in list(taker.leases.items()):
                asked, left, wanted = lease.asked, lease.granted - lease.used, 0.0
                if asked != lease.seen and not closing:
                    span_s = max(LEAST_S, now_s - lease.settled_s)
                    lease.pace = max((asked - lease.seen) / span_s, lease.pace / 2)
                    ahead_s = max(AHEAD_S, 2 * span_s)
                    # What one worker holds, others lack: no more than the rate can replace, or a part of the burst.
                    most = max(2 * lease.rate * ahead_s, lease.burst / 4)
                    wanted = min(lease.burst, max(lease.need, min(most, lease.pace * ahead_s)))
                lease.seen, lease.settled_s, lease.low = asked, now_s, wanted / 2
                turns.append((taker, who, lease, left, wanted))
                numbers = (repr(value) for value in (lease.rate, lease.burst, -left, wanted))
                commands.append((lease.group, ("EVALSHA", self._settle_script, 1, lease.key, *numbers)))
        workers, *granted = self._lender.call(commands)
        self.workers = max(self._least_workers, int(workers))
        for (taker, who, lease, left, wanted), tokens in zip(turns, granted, strict=True):
            lease.granted += float(tokens) - left
            lease.bridged = float(tokens) >= wanted
            if not wanted:  # a call of just now may have used a token of it: that one is free
                taker.leases.pop(who, None)


class Leasing:
    """Takes tokens of one kind of callers from their leases."""

    def __init__(self, shared: Leases, local: Taker, kind: str) -> None:
        self.leases: dict[Name, Lease] = {}
        self._shared, self._local, self._kind, self._most = shared, local, kind, MOST_LEASES[kind]

    def take(self, who: Name, cost: float, rate: float, burst: float) -> None:
        """As `vigil.access.limits.Buckets.take`."""
        lease = self.leases.get(who)
        if lease is None or self._shared.is_away:
            lease = self._begin(who, rate, burst)
        if lease:
            lease.asked += cost
            left = lease.granted - lease.used
            if left < lease.low and not self._shared.wake.is_set():
                self._shared.wake.set()
            if left >= (cost if cost < burst else burst):
                lease.used += cost
                return
            if cost > lease.need:
                lease.need = cost
            if not lease.bridged:
                raise RateLimited(rate, burst, (cost - left) / rate)
        workers = self._shared.workers
        try:
            self._local.take(who, cost, rate / workers, burst / workers)
        except RateLimited as refused:
            raise RateLimited(rate, burst, refused.retry_after_s) from None
        if lease:
            lease.used += cost

    def _begin(self, who: Name, rate: float, burst: float) -> Lease | None:
        """A lease that holds nothing yet; None while the server is away, or where there are too many."""
        if self._shared.is_away or len(self.leases) >= self._most:
            return None
        lease = self.leases[who] = Lease(f"{self._kind} {rate} {burst} {who!r}", rate, burst, self._shared.clock_s())
        self._shared.wake.set()
        return lease
