"""Laws of the metrics: what is kept comes out as it went in, and several processes are one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from vigil.observe import metrics
from vigil.observe.tallies import MANY, MOST_KEPT, BinsTally, Buckets, CounterTally, Family, GaugeTally, HistogramTally

ROOT = Path(__file__).parent.parent
WORKER = """
import sys
from vigil.observe import metrics
metrics.bury()
metrics.READY.set(1)
metrics.QUEUE_ROWS.labels("payments", "rows").set(5)
metrics.IN_FLIGHT.labels("http").value += 2
for _ in range(int(sys.argv[1])):
    metrics.call("http", "/v2", "200").add(0.0003)
metrics.flush()
print("counted", flush=True)
sys.stdin.read()
"""


def values(registry: Any, name: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if metric.name == name and not sample.name.endswith("_created")
    }


def test_a_histogram_of_kept_values_is_the_one_of_each_value() -> None:
    registry = CollectorRegistry()
    bounds = (0.1, 0.5, 1.0)
    each = Histogram("each", "", ["a"], buckets=bounds, registry=registry)
    kept = Family(Buckets("kept", "", ["a"], buckets=bounds, registry=registry), HistogramTally)
    random = np.random.default_rng(1)
    for value in [*bounds, 0.0, 7.0, *random.exponential(0.5, 2 * MOST_KEPT).tolist()]:
        each.labels("x").observe(value)
        kept.labels("x").observe(value)
    kept.labels("x").flush()
    wanted, got = values(registry, "each"), values(registry, "kept")
    assert len(wanted) == len(got) == 6
    for key, value in wanted.items():
        assert got[key[0].replace("each", "kept"), *key[1:]] == pytest.approx(value)


def test_counters_and_gauges_show_what_was_kept_once_flushed() -> None:
    registry = CollectorRegistry()
    counted = Family(Counter("counted", "", ["a"], registry=registry), CounterTally).labels("x")
    shown = Family(Gauge("shown", "", ["a"], registry=registry), GaugeTally).labels("x")
    counted.inc()
    counted.inc(2.5)
    shown.set(4)
    shown.value -= 1
    assert registry.get_sample_value("counted_total", {"a": "x"}) == 0
    counted.flush()
    shown.flush()
    assert registry.get_sample_value("counted_total", {"a": "x"}) == 3.5
    assert registry.get_sample_value("shown", {"a": "x"}) == 3


def test_what_is_kept_is_bounded_without_a_flush() -> None:
    registry = CollectorRegistry()
    counted = Family(Counter("many", "", ["a"], registry=registry), CounterTally).labels("x")
    for _ in range(MOST_KEPT):
        counted.inc()
    assert registry.get_sample_value("many_total", {"a": "x"}) == MOST_KEPT


@pytest.mark.parametrize("size", [1, 7, MANY, 2 * MANY])
def test_bins_reach_from_an_edge_up_to_the_next(size: int) -> None:
    registry = CollectorRegistry()
    counter = Counter("binned", "", ["bin"], registry=registry)
    edges = np.array([0.1, 0.5], np.float32)
    tally = BinsTally(edges.tolist(), [counter.labels(str(i)) for i in range(3)])
    counts = [0, 0, 0]
    random = np.random.default_rng(1)
    for values in [edges, *random.random((5, size)).astype(np.float32)]:
        tally.add(values)
        for value in values:
            counts[sum(value >= edge for edge in edges)] += 1
    tally.flush()
    assert [registry.get_sample_value("binned_total", {"bin": str(i)}) for i in range(3)] == counts


def test_a_process_that_is_alone_tells_what_it_has_kept() -> None:
    metrics.decided("alone", "rules", ["approve", "approve"])
    (told,) = (metric for metric in metrics.Flushed().collect() if metric.name == "vigil_decisions")
    assert next(sample.value for sample in told.samples if sample.labels["domain"] == "alone") == 2
    assert REGISTRY.get_sample_value("vigil_cpu_seconds_total") == pytest.approx(process_time(), rel=0.1)


def worker(folder: Path, calls: int) -> subprocess.Popen[str]:
    """A process that counts `calls` calls, then waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(calls)],
        cwd=ROOT,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "counted\n"
    return process


def test_several_workers_add_up_and_a_killed_one_no_longer_says_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    with worker(tmp_path, 3) as one, worker(tmp_path, 4) as two:
        assert values(registry, "vigil_requests") == {("vigil_requests_total", "/v2", "200", "http"): 7}
        assert values(registry, "vigil_ready") == {("vigil_ready",): 2}
        assert values(registry, "vigil_queue_rows") == {("vigil_queue_rows", "payments", "rows"): 10}
        assert values(registry, "vigil_requests_in_flight") == {("vigil_requests_in_flight", "http"): 4}
        one.kill()
        one.wait(10)
        with worker(tmp_path, 5) as again:
            assert values(registry, "vigil_ready") == {("vigil_ready",): 2}
            assert values(registry, "vigil_queue_rows") == {("vigil_queue_rows", "payments", "rows"): 10}
            # What the killed one had counted stays counted.
            assert values(registry, "vigil_requests") == {("vigil_requests_total", "/v2", "200", "http"): 12}
            seconds = values(registry, "vigil_request_seconds")
            assert seconds["vigil_request_seconds_count", "/v2", "http"] == 12
            again.kill()
        two.kill()


def test_names_follow_the_conventions_of_prometheus() -> None:
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith("vigil_")]
    assert {metric.type for metric in ours} == {"counter", "gauge", "histogram"}
    for metric in ours:
        assert metric.documentation.endswith(".")
        if metric.type == "histogram":
            assert metric.name.endswith(("_seconds", "_rows")), metric.name
    assert sum(bound <= 1e-3 for bound in metrics.SECONDS) >= 5
