"""Laws of rate limits that workers share, over a real server."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY

from testbed.valkey import Valkey, ValkeyCluster
from vigil import settings
from vigil.access import leases
from vigil.access.limits import RateLimits
from vigil.errors import RateLimited
from vigil.features.shared import connection
from vigil.features.shared.connection import Link

WORKER = """
import sys, time
from vigil import settings
from vigil.access.limits import RateLimits
from vigil.errors import RateLimited
from vigil.features.shared.connection import Link
url, rate, pause_s, seconds, begin_s = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])
limits = RateLimits(settings.load({"VIGIL_RATE_LIMIT": rate, "VIGIL_WORKERS": "2"}), lender=Link(url, 2000))
taken = 0
time.sleep(max(0, begin_s - time.time()))
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        limits.take("key")
        taken += 1
    except RateLimited:
        pass
    time.sleep(pause_s)
limits.close()
print(taken)
"""


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


def shared(server: Valkey | ValkeyCluster, rate: float, workers: int = 1, burst: float = 0.0) -> RateLimits:
    given = {"VIGIL_RATE_LIMIT": str(rate), "VIGIL_RATE_BURST": str(burst), "VIGIL_WORKERS": str(workers)}
    return RateLimits(settings.load(given), lender=Link(server.url, 250))


def taken(limits: RateLimits, who: str, seconds: float, pause_s: float = 0.001) -> int:
    count, end_s = 0, time.monotonic() + seconds
    while time.monotonic() < end_s:
        with suppress(RateLimited):
            limits.take(who)
            count += 1
        time.sleep(pause_s)
    return count


def until_shared(limits: RateLimits) -> None:
    end_s = time.monotonic() + 5
    while limits._leases and limits._leases.is_away and time.monotonic() < end_s:
        time.sleep(0.01)
    assert limits._leases
    assert not limits._leases.is_away


def alone() -> float:
    return REGISTRY.get_sample_value("vigil_rate_limits_alone") or 0.0


@pytest.mark.parametrize(
    ("rate", "pauses_s"), [(200, (0.001, 0.001)), (200, (0.001, 0.02)), (50, (0.0005, 0.03)), (20, (0.01, 0.01))]
)
def test_two_processes_together_give_the_limit_to_within_5_percent(
    valkey: Valkey, rate: int, pauses_s: tuple[float, float]
) -> None:
    with valkey.client() as client:
        client.flushall()
    begin_s = time.time() + 2.5
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, valkey.url, str(rate), str(pause_s), "10", str(begin_s)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for pause_s in pauses_s
    ]
    each = [int(process.communicate(timeout=60)[0]) for process in processes]
    wanted = rate * 10 + rate  # and the burst that was saved before
    assert abs(sum(each) - wanted) <= 0.05 * wanted, each


def test_who_is_below_the_limit_is_not_refused(valkey: Valkey) -> None:
    workers = [shared(valkey, 100, workers=2) for _ in range(2)]
    for limits in workers:
        until_shared(limits)
    for i in range(150):  # 50 a second, now here, now there
        workers[i % 2].take("modest")
        time.sleep(0.02)
    for limits in workers:
        limits.close()


def test_one_worker_may_use_the_whole_limit(valkey: Valkey) -> None:
    limits = shared(valkey, 200, workers=4)
    until_shared(limits)
    count = taken(limits, "single", 5)
    assert count == pytest.approx(1200, rel=0.05)
    limits.close()


def test_what_is_left_is_given_back(valkey: Valkey) -> None:
    with valkey.client() as client:
        client.flushall()
        first = shared(valkey, 0.01, burst=100)
        until_shared(first)
        for _ in range(10):
            first.take("key")
            time.sleep(0.02)
        first.close()
        second = shared(valkey, 0.01, burst=100)
        until_shared(second)
        assert taken(second, "key", 1, 0.002) == 90
        second.close()


def test_a_big_cost_is_paid_off_at_the_rate(valkey: Valkey) -> None:
    limits = shared(valkey, 100, burst=10)
    until_shared(limits)
    count, end_s = 0, time.monotonic() + 5
    while time.monotonic() < end_s:
        with suppress(RateLimited):
            limits.take("batches", 50)
            count += 50
        time.sleep(0.002)
    assert 400 <= count <= 600
    limits.close()


def test_no_call_waits_for_a_server_that_hangs_and_each_worker_gives_its_share(valkey: Valkey) -> None:
    workers = [shared(valkey, 100, workers=2) for _ in range(2)]
    for limits in workers:
        until_shared(limits)
        taken(limits, "key", 0.5)
    valkey.stop(signal.SIGSTOP)
    try:
        time.sleep(0.6)
        assert alone() == 1
        slowest_s, counts = 0.0, [0, 0]
        end_s = time.monotonic() + 3
        while time.monotonic() < end_s:
            for i, limits in enumerate(workers):
                began_s = time.perf_counter()
                with suppress(RateLimited):
                    limits.take("key")
                    counts[i] += 1
                slowest_s = max(slowest_s, time.perf_counter() - began_s)
            time.sleep(0.002)
    finally:
        valkey.resume()
    assert slowest_s < 0.1
    for limits, count in zip(workers, counts, strict=True):
        assert limits._leases
        share = 100 / limits._leases.workers
        assert 0.9 * 3 * share <= count <= 4.1 * share  # in 3 s, and the burst
    assert alone() == 1
    for limits in workers:
        until_shared(limits)
        limits.close()
    assert alone() == 0


def test_a_server_that_comes_back_empty_is_shared_again() -> None:
    with Valkey() as server:
        limits = shared(server, 100)
        until_shared(limits)
        server.stop()
        taken(limits, "key", 0.5)
        server.start()
        until_shared(limits)
        assert taken(limits, "key", 3) == pytest.approx(400, rel=0.08)
        limits.close()


def test_workers_are_counted(valkey: Valkey) -> None:
    workers = [shared(valkey, 100) for _ in range(3)]
    time.sleep(0.5)
    assert max(limits._leases.workers for limits in workers if limits._leases) >= 3
    for limits in workers:
        limits.close()


def test_a_flood_of_addresses_leases_for_few_and_leaves_keys_theirs(valkey: Valkey) -> None:
    limits = shared(valkey, 100)
    until_shared(limits)
    count, asked, end_s, i = 0, 0, time.monotonic() + 3, 0
    while time.monotonic() < end_s:
        for _ in range(20):
            i += 1
            limits.take_address(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}")
        asked += 1
        with suppress(RateLimited):
            limits.take("key")
            count += 1
        time.sleep(0.002)
    assert count >= min(350, 0.85 * asked)  # a busy machine asks for less
    assert len(limits._addresses.leases) <= leases.MOST_LEASES["address"]  # type: ignore[attr-defined]
    limits.close()


def test_a_cluster_has_the_buckets_too() -> None:
    with ValkeyCluster() as cluster:
        limits = shared(cluster, 100)
        until_shared(limits)
        for who in ("a", "b", "c"):
            assert taken(limits, who, 3) == pytest.approx(400, rel=0.15)
        limits.close()


def test_groups_are_those_of_the_connection() -> None:
    assert leases.GROUPS == connection.BUCKETS
