"""Rate limits: a token bucket for each key, and for each address that calls without one.

A bucket is one number: the time at which it will be full again (GCRA, ITU-T I.371). Taking a token moves that time
by `1 / rate`; a caller is refused when it would lie more than `burst / rate` ahead. A bucket that is full again
can be forgotten without loss, so memory is bounded without eviction.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from vigil.access.leases import Leases, Lender, Name, Taker
from vigil.errors import RateLimited
from vigil.observe import metrics
from vigil.settings import Settings

MOST_BUCKETS = 100_000
SHARED_BUCKETS = 1024
MOST_NAME = 256
# Above what adding times in floating point loses in years, below what anybody notices.
TOLERANCE_S = 1e-6


class Buckets:
    """Token buckets of one process; to be used in one thread.

    A new caller looks at two old buckets and drops those that are full again. When `most` buckets are in use and
    none is full, further new callers share a fixed number of buckets. So nobody gets a fresh bucket by pushing
    an old one out, and callers that have a bucket keep it, whoever comes.

    Args:
        clock_s: a monotonic clock, seconds.
        most: how many callers get a bucket of their own at the same time.
    """

    def __init__(self, clock_s: Callable[[], float], most: int = MOST_BUCKETS) -> None:
        self._clock_s, self._most = clock_s, most
        self._full_s: dict[Name | int, float] = {}  # when each is full again
        self._order: deque[Name] = deque()
        self._shared = 0

    def __len__(self) -> int:
        return len(self._full_s)

    def take(self, who: Name, cost: float, rate: float, burst: float) -> None:
        """Takes `cost` tokens.

        A cost above `burst` needs a full bucket and leaves it in debt: the rate holds on average.

        Raises:
            RateLimited: where there are not enough; nothing is taken then.
        """
        now_s = self._clock_s()
        full_s = self._full_s.get(who)
        name: Name | int = who
        if full_s is None:
            name = self._admit(who, now_s)
            full_s = self._full_s.get(name, now_s)
        if full_s < now_s:
            full_s = now_s
        late_s = full_s - now_s + ((cost if cost < burst else burst) - burst) / rate
        if late_s > TOLERANCE_S:
            raise RateLimited(rate, burst, late_s)
        self._full_s[name] = full_s + cost / rate

    def _admit(self, who: Name, now_s: float) -> Name | int:
        """The name of the bucket that a caller without one gets."""
        buckets, order = self._full_s, self._order
        for _ in range(min(2, len(order))):
            oldest = order.popleft()
            if buckets[oldest] <= now_s:
                del buckets[oldest]
            else:
                order.append(oldest)
        if len(order) >= self._most or len(who) > MOST_NAME:
            return hash(who) % SHARED_BUCKETS  # seeded anew in each process: nobody can aim at a bucket
        order.append(who)
        buckets[who] = now_s
        return who


class RateLimits:
    """The limits of all callers; to be used in one thread, the event loop's. The hot path waits for nothing.

    Args:
        settings: the limit of a caller that has none of its own.
        clock_s: a monotonic clock, seconds.
        lender: where the workers of all machines take tokens from; None: each worker has buckets of its own. It
            belongs to the limits from here on.
    """

    def __init__(
        self, settings: Settings, clock_s: Callable[[], float] = time.monotonic, lender: Lender | None = None
    ) -> None:
        self._rate = settings.rate_limit
        self._burst = settings.rate_burst or max(1.0, self._rate)
        keys, addresses = Buckets(clock_s), Buckets(clock_s)
        self._leases = Leases(lender, clock_s, settings.workers) if lender else None
        self._keys: Taker = self._leases.over(keys, "key") if self._leases else keys
        self._addresses: Taker = self._leases.over(addresses, "address") if self._leases else addresses
        self._refused_keys, self._refused_addresses = (metrics.RATE_LIMITED.labels(kind) for kind in ("key", "address"))

    def take(self, who: str, cost: float = 1, rate: float | None = None, burst: float | None = None) -> None:
        """Takes tokens of a caller that is known by name.

        Args:
            who: id of the key, or the subject of a token or certificate.
            cost: of the call: 1, or its events.
            rate, burst: the caller's own limit in place of the settings'; a rate of 0: no limit.

        Raises:
            RateLimited: where the caller has used its limit up.
        """
        name: Name = who
        if rate is None:
            rate, burst = self._rate, self._burst
        elif rate:
            burst = burst or max(1.0, rate)
            name = who, rate, burst  # a bucket of its own: a changed limit owes nothing to the one before
        if rate:
            try:
                self._keys.take(name, cost, rate, burst or 1.0)
            except RateLimited:
                self._refused_keys.inc()
                raise

    def take_address(self, host: str, cost: float = 1) -> None:
        """Takes tokens of a caller without a name, raising as `take`. All of an IPv6 /64 are one caller."""
        if self._rate:
            try:
                self._addresses.take(network(host) if ":" in host else host, cost, self._rate, self._burst)
            except RateLimited:
                self._refused_addresses.inc()
                raise

    def close(self) -> None:
        """Gives leased tokens back."""
        if self._leases:
            self._leases.close()


@lru_cache(4096)
def network(host: str) -> str:
    """The network that one subscriber of IPv6 has, a /64; the IPv4 address of one that is mapped; else `host`."""
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address) >> 64 << 64))


def headers(refused: RateLimited) -> tuple[tuple[bytes, bytes], ...]:
    """Header fields of the 429: Retry-After (RFC 9110), RateLimit-Policy and RateLimit.

    The latter are those of draft-ietf-httpapi-ratelimit-headers-10. `q` per `w` seconds is the rate, rounded down;
    `vigil-burst` is how many may come at once.
    """
    window_s = max(1, math.ceil(1 / refused.rate))
    policy = f'"caller";q={max(1, int(refused.rate * window_s))};w={window_s};vigil-burst={max(1, int(refused.burst))}'
    return (
        (b"retry-after", b"%d" % refused.retry_after_s),
        (b"ratelimit-policy", policy.encode()),
        (b"ratelimit", b'"caller";r=0;t=%d' % refused.retry_after_s),
    )
