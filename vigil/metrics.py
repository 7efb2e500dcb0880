"""Every Prometheus name of Vigil, and the one place that writes them.

With several workers `prometheus_client` keeps values in the files that BentoML names in
`PROMETHEUS_MULTIPROC_DIR`, and `/metrics` of any worker gives the sum: import this module only in a
worker, where that variable is set.

Writing one value there takes 1 to 2 us, a request takes 15 and counts several: so values are kept in
lists (`vigil/tallies.py`) and written by :func:`flush`, which `vigil/telemetry.py` calls four times a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from prometheus_client import Counter, Gauge
from prometheus_client.multiprocess import mark_process_dead

from vigil import tallies
from vigil.tallies import Buckets, CallTally, CounterTally, Family, GaugeTally, HistogramTally

SECONDS = (1e-4, 2e-4, 4e-4, 7e-4, 1e-3, 2e-3, 4e-3, 7e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

REQUESTS = Counter(
    "vigil_requests", "Requests answered, by status (HTTP code or gRPC name).", ["transport", "route", "status"]
)
REQUEST_SECONDS = Buckets(
    "vigil_request_seconds", "From the whole request to the answer.", ["transport", "route"], buckets=SECONDS
)
IN_FLIGHT = Family(
    Gauge("vigil_requests_in_flight", "Requests not yet answered.", ["transport"], multiprocess_mode="livesum"),
    GaugeTally,
)
BATCH_ROWS = Family(
    Buckets("vigil_batch_rows", "Rows that went through together.", ["domain", "what"], buckets=ROWS), HistogramTally
)
STAGE_SECONDS = Family(
    Buckets(
        "vigil_stage_seconds",
        "Time of a batch in the feature kernel and in the model.",
        ["domain", "stage"],
        buckets=SECONDS,
    ),
    HistogramTally,
)
QUEUE_ROWS = Family(
    Gauge("vigil_queue_rows", "Rows waiting.", ["domain", "what"], multiprocess_mode="livesum"), GaugeTally
)
OVERLOADED = Family(
    Counter("vigil_overloaded", "Submissions refused because the queue was full.", ["domain", "what"]), CounterTally
)
EVENTS = Family(
    Counter("vigil_events", "Events by what became of them in the feature state.", ["domain", "status"]), CounterTally
)
LABELS = Family(Counter("vigil_labels", "Labels by what became of them.", ["domain", "status"]), CounterTally)
DECISIONS = Family(
    Counter("vigil_decisions", "Decisions by action and tier.", ["domain", "action", "tier"]), CounterTally
)
MODEL_INFO = Gauge(
    "vigil_model_info", "1 for the model that answers.", ["domain", "version", "digest"], multiprocess_mode="livemax"
)
STATE_AWAY = Gauge(
    "vigil_state_away", "Workers whose shared feature state does not answer.", ["domain"], multiprocess_mode="livesum"
)
READY = Gauge("vigil_ready", "Workers that are ready.", multiprocess_mode="livesum")

STREAM_LAG = Gauge(
    "vigil_stream_lag",
    "Records behind the end of a partition, as last heard from the broker.",
    ["topic", "partition"],
    multiprocess_mode="livemostrecent",
)
STREAM_RECORDS = Counter("vigil_stream_records", "Records of a stream by what became of them.", ["outcome"])
STREAM_BATCH = Buckets("vigil_stream_batch_rows", "Events committed together.", buckets=ROWS)
STREAM_COMMIT_SECONDS = Buckets(
    "vigil_stream_commit_seconds", "From the first record of a transaction to its commit.", buckets=SECONDS
)
STREAM_SECONDS = Buckets(
    "vigil_stream_seconds",
    "From an event's production to the commit of its decision: the oldest of each transaction.",
    buckets=SECONDS,
)
STREAM_ABORTS = Counter("vigil_stream_aborts", "Transactions aborted; their events are read again.")

_calls: dict[tuple[str, str, str], CallTally] = {}


def call(transport: str, route: str, status: str) -> CallTally:
    """Where the seconds of requests with this end are added; for who answers many, to be kept.

    Args:
        transport: "http" or "grpc".
        route: template of the path, or name of the method.
        status: HTTP code or gRPC name.
    """
    key = transport, route, status
    found = _calls.get(key)
    if found is None:
        found = CallTally(REQUESTS.labels(*key), REQUEST_SECONDS.labels(transport, route))
        _calls[key] = found
    return found


def answered(transport: str, route: str, status: str, started_s: float) -> None:
    """Counts one answered request that began at `started_s` of `time.perf_counter`."""
    call(transport, route, status).add(perf_counter() - started_s)


def decided(domain: str, tier: str, actions: Sequence[str]) -> None:
    """Counts the decisions of one batch."""
    for action in set(actions):
        DECISIONS.labels(domain, action, tier).inc(actions.count(action))


class BatchMetrics:
    """What one batcher reports. `what` is "events" or "rows"."""

    def __init__(self, domain: str, what: str) -> None:
        self.domain, self.what = domain, what
        self.rows = BATCH_ROWS.labels(domain, what)
        self.waiting = QUEUE_ROWS.labels(domain, what)
        self.overloaded = OVERLOADED.labels(domain, what)


def flush() -> None:
    """Writes what has been counted to where `/metrics` reads it."""
    tallies.flush()


def bury() -> None:
    """Forgets what dead processes said of the present: how ready they were, what waited in them.

    BentoML does this for a process that ends; one that was killed cannot. What they counted stays.
    """
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
    for path in Path(folder).glob("gauge_live*_*.db") if folder else ():
        found = re.search(r"_(\d+)\.db$", path.name)
        if found and not _alive(int(found[1])):
            mark_process_dead(int(found[1]))  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as failure:
        return not isinstance(failure, ProcessLookupError)  # of another user, but there
    return True
