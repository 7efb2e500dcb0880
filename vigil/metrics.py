"""Every Prometheus name of Vigil, and the one place that writes them.

With several workers `prometheus_client` keeps values in the files that BentoML names in
`PROMETHEUS_MULTIPROC_DIR`, and `/metrics` of any worker gives the sum: import this module only in a
worker, where that variable is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (1e-4, 2e-4, 4e-4, 7e-4, 1e-3, 2e-3, 4e-3, 7e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

REQUESTS = Counter(
    "vigil_requests", "Requests answered, by status (HTTP code or gRPC name).", ["transport", "route", "status"]
)
REQUEST_SECONDS = Histogram(
    "vigil_request_seconds", "From the whole request to the answer.", ["transport", "route"], buckets=SECONDS
)
BATCH_ROWS = Histogram("vigil_batch_rows", "Rows that went through together.", ["domain", "what"], buckets=ROWS)
STAGE_SECONDS = Histogram(
    "vigil_stage_seconds",
    "Time of a batch in the feature kernel and in the model.",
    ["domain", "stage"],
    buckets=SECONDS,
)
QUEUE_ROWS = Gauge("vigil_queue_rows", "Rows waiting.", ["domain", "what"], multiprocess_mode="livesum")
OVERLOADED = Counter("vigil_overloaded", "Submissions refused because the queue was full.", ["domain", "what"])
EVENTS = Counter("vigil_events", "Events by what became of them in the feature state.", ["domain", "status"])
LABELS = Counter("vigil_labels", "Labels by what became of them.", ["domain", "status"])
DECISIONS = Counter("vigil_decisions", "Decisions by action and tier.", ["domain", "action", "tier"])
MODEL_INFO = Gauge(
    "vigil_model_info", "1 for the model that answers.", ["domain", "version", "digest"], multiprocess_mode="livemax"
)
READY = Gauge("vigil_ready", "Workers that are ready.", multiprocess_mode="livesum")

STREAM_LAG = Gauge(
    "vigil_stream_lag",
    "Records behind the end of a partition, as last heard from the broker.",
    ["topic", "partition"],
    multiprocess_mode="livemostrecent",
)
STREAM_RECORDS = Counter("vigil_stream_records", "Records of a stream by what became of them.", ["outcome"])
STREAM_BATCH = Histogram("vigil_stream_batch_events", "Events committed together.", buckets=ROWS)
STREAM_COMMIT_SECONDS = Histogram(
    "vigil_stream_commit_seconds", "From the first record of a transaction to its commit.", buckets=SECONDS
)
STREAM_SECONDS = Histogram(
    "vigil_stream_seconds",
    "From an event's production to the commit of its decision: the oldest of each transaction.",
    buckets=SECONDS,
)
STREAM_ABORTS = Counter("vigil_stream_aborts", "Transactions aborted; their events are read again.")

_request_counter = cache(REQUESTS.labels)
_request_seconds = cache(REQUEST_SECONDS.labels)
_decision_counter = cache(DECISIONS.labels)


def answered(transport: str, route: str, status: str, started_s: float) -> None:
    """Counts one answered request that began at `started_s` of `time.perf_counter`."""
    _request_counter(transport, route, status).inc()
    _request_seconds(transport, route).observe(perf_counter() - started_s)


def decided(domain: str, tier: str, actions: Sequence[str]) -> None:
    """Counts the decisions of one batch."""
    for action in set(actions):
        _decision_counter(domain, action, tier).inc(actions.count(action))


class BatchMetrics:
    """What one batcher reports. `what` is "events" or "rows"."""

    def __init__(self, domain: str, what: str) -> None:
        self.rows = BATCH_ROWS.labels(domain, what)
        self.waiting = QUEUE_ROWS.labels(domain, what)
        self.overloaded = OVERLOADED.labels(domain, what)
