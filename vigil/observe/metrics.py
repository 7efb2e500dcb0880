"""Every Prometheus name of Vigil, and the one place that writes them.

With several workers `prometheus_client` keeps values in the files that BentoML names in
`PROMETHEUS_MULTIPROC_DIR`, and `/metrics` of any worker gives the sum: import this module only in a
worker, where that variable is set.

Writing one value there takes 1 to 2 us, a request takes 15 and counts several: so values are kept in lists
(`tallies.py`) and written by `flush`, which `calls.py` calls four times a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import process_time

import numpy as np
import numpy.typing as npt
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.multiprocess import mark_process_dead

from vigil.observe import tallies
from vigil.observe.tallies import BinsTally, Buckets, CallTally, CounterTally, Family, GaugeTally, HistogramTally

SECONDS = (1e-4, 2e-4, 4e-4, 7e-4, 1e-3, 2e-3, 4e-3, 7e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0)
RISK_BIN = ("domain", "version", "bin")
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
BUFFERED = Family(
    Gauge(
        "vigil_buffered_bytes",
        "Bytes of bodies that came and answers that nobody took.",
        multiprocess_mode="livesum",
    ),
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
RECORDS = Family(
    Counter("vigil_records", "Decision records of the service by what became of them.", ["outcome"]), CounterTally
)
RATE_LIMITED = Family(
    Counter("vigil_rate_limited", "Calls refused by the limit of their caller, by what it is known by.", ["caller"]),
    CounterTally,
)
RATE_LIMITS_ALONE = Gauge(
    "vigil_rate_limits_alone",
    "Workers that limit rates by themselves while shared state is away.",
    multiprocess_mode="livesum",
)
AUDIT = Counter("vigil_audit", "Entries of the audit log by what became of them.", ["outcome"])
MODEL_INFO = Gauge(
    "vigil_model_info", "1 for the model that answers.", ["domain", "version", "digest"], multiprocess_mode="livemax"
)
MODEL_CREATED = Gauge(
    "vigil_model_created_timestamp_seconds",
    "When the model was stored, seconds since 1970.",
    ["domain", "version"],
    multiprocess_mode="livemax",
)
RISKS = Counter(
    "vigil_risks", "Decisions of a model by the bin of its risks at training that theirs is in.", [*RISK_BIN]
)
RISK_REFERENCE = Gauge(
    "vigil_risk_reference_share",
    "Share of the risks at training that was in the bin.",
    [*RISK_BIN],
    multiprocess_mode="livemax",
)
STATE_AWAY = Gauge(
    "vigil_state_away",
    "Workers whose feature state does not answer or cannot be written.",
    ["domain"],
    multiprocess_mode="livesum",
)
READY = Gauge("vigil_ready", "Workers that are ready.", multiprocess_mode="livesum")
WORKERS = Gauge("vigil_workers", "Workers that there should be.", multiprocess_mode="livemax")
WORKER_STARTS = Counter("vigil_worker_starts", "Starts of workers: one that died is started again.")
CPU_SECONDS = Counter("vigil_cpu_seconds", "Processor time of the workers.")

STREAM_LAG = Gauge(
    "vigil_stream_lag",
    "Records of a partition that are not scored yet, as last heard from the broker.",
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
_cpu_s = 0.0


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


def decided(domain: str, tier: str, actions: Sequence[str]) -> None:
    """Counts the decisions of one batch."""
    for action in set(actions):
        DECISIONS.labels(domain, action, tier).inc(actions.count(action))


def risks_seen(
    domain: str, version: str, edges: Sequence[float], shares: Sequence[float]
) -> Callable[[npt.NDArray[np.float32]], None]:
    """What counts the risks float32 [n] of a model's decisions, beside what is known of them from training.

    Args:
        domain: whose model it is.
        version: of the model.
        edges: between the bins, ascending.
        shares: of the risks at training in each bin, one more than edges.
    """
    bins = [(domain, version, f"{i:02d}") for i in range(1, len(shares) + 1)]
    for labels, share in zip(bins, shares, strict=True):
        RISK_REFERENCE.labels(*labels).set(share)
    return BinsTally(edges, [RISKS.labels(*labels) for labels in bins]).add


class BatchMetrics:
    """What one batcher reports. `what` is "events" or "rows"."""

    def __init__(self, domain: str, what: str) -> None:
        self.domain, self.what = domain, what
        self.rows = BATCH_ROWS.labels(domain, what)
        self.waiting = QUEUE_ROWS.labels(domain, what)
        self.overloaded = OVERLOADED.labels(domain, what)


def flush() -> None:
    """Writes what has been counted to where `/metrics` reads it."""
    global _cpu_s
    tallies.flush()
    before_s, _cpu_s = _cpu_s, process_time()
    CPU_SECONDS.inc(_cpu_s - before_s)


class Flushed(CollectorRegistry):
    """The metrics of a process that is alone, with all that was counted until it is asked."""

    def collect(self) -> Iterable[Metric]:
        """As `prometheus_client` asks for them."""
        flush()
        return REGISTRY.collect()


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
