"""OpenTelemetry traces, where the standard `OTEL_*` variables name an exporter; else nothing is imported.

Who is sampled is decided here, ahead of the SDK and from its own variables, so that a request that is not
costs a look at its `traceparent` and no more.
"""

from __future__ import annotations

import importlib.metadata
import random
import re
from asyncio import to_thread
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Thread
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

import vigil
from vigil.errors import ConfigError, quote

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span

SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
EXPORTERS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
FLUSH_S = 5.0
MOST_BATCHES = 32  # spans of batches in one trace: a stream has as many batches as messages
ALL_IDS = 1 << 64  # the sampler of the SDK, too, looks at the lower half of a trace's id


@dataclass(frozen=True)
class Plan:
    """What the environment asks for.

    Args:
        exporters: names of entry points in the group `opentelemetry_traces_exporter`.
        share: of the traces that are sampled.
        follows: whether the decision of the caller holds, where the caller has made one.
    """

    exporters: tuple[str, ...]
    share: float
    follows: bool


def plan(environ: Mapping[str, str]) -> Plan | None:
    """What the `OTEL_*` variables ask for; None where they name no exporter of traces.

    Raises:
        ConfigError: for a value that cannot be, and for an exporter that is not installed.
    """
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not named and any(environ.get(key) for key in ENDPOINTS):
        named = "otlp"
    if named in ("", "none") or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    exporters = []
    for name in (each.strip() for each in named.split(",")):
        wanted = EXPORTERS.get(protocol or "http/protobuf", protocol or "") if name == "otlp" else name
        if not importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=wanted):
            raise ConfigError(
                f"OTEL_TRACES_EXPORTER={quote(name)}: no exporter {quote(wanted)} is installed; "
                "otlp over http/protobuf comes with the extra otel: pip install 'vigil[otel]'"
            )
        exporters.append(wanted)
    share, follows = _sampler(environ)
    return Plan(tuple(exporters), share, follows)


def _sampler(environ: Mapping[str, str]) -> tuple[float, bool]:
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    if name not in SAMPLERS:
        raise ConfigError(f"OTEL_TRACES_SAMPLER={quote(name)}: wanted one of {', '.join(SAMPLERS)}")
    share = 0.0 if name.endswith("always_off") else 1.0
    if name.endswith("traceidratio"):
        given = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
        try:
            share = float(given)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG={quote(given)}: wanted a share from 0 to 1")
    return share, name.startswith("parentbased_")


class Trace:
    """A sampled call on its way: its span, and the moment it began on both clocks.

    Args:
        span: of the call.
        started_s: when it began, of `time.perf_counter`.
        started_ns: the same moment, epoch nanoseconds.
    """

    __slots__ = ("_batches", "_started_ns", "_started_s", "span")

    def __init__(self, span: Span, started_s: float, started_ns: int) -> None:
        self.span = span
        self._started_s, self._started_ns = started_s, started_ns
        self._batches = 0

    def at_ns(self, moment_s: float) -> int:
        """A moment of `time.perf_counter` in epoch nanoseconds."""
        return self._started_ns + int((moment_s - self._started_s) * 1e9)

    def more(self) -> bool:
        """Whether the spans of one batch more shall be made."""
        self._batches += 1
        return self._batches <= MOST_BATCHES


@dataclass(frozen=True)
class Times:
    """When a batch began, was prepared, computed and answered, moments of `time.perf_counter`."""

    began_s: float
    prepared_s: float
    computed_s: float
    answered_s: float


class Tracing:
    """Makes spans and sends them.

    Args:
        plan: what the environment asks for.
    """

    def __init__(self, plan: Plan) -> None:
        from opentelemetry import trace

        self._api, self._plan = trace, plan
        self._provider = _provider(plan)
        self._tracer = self._provider.get_tracer("vigil", vigil.__version__)
        self._kind = trace.SpanKind.SERVER
        self._bound = int(plan.share * ALL_IDS)

    def begin(
        self, name: str, attributes: Mapping[str, Any], traceparent: str, tracestate: str, started_s: float
    ) -> Trace | None:
        """The trace of a call that began at `started_s` of `time.perf_counter`; None where it is not sampled.

        It is a child of what `traceparent` says, or a root where that says nothing.
        """
        parent = TRACEPARENT.fullmatch(traceparent) if traceparent else None
        if not self._sampled(parent):
            return None
        context = self._remote(parent, tracestate) if parent else self._api.set_span_in_context(self._api.INVALID_SPAN)
        started_ns = time_ns() - int((perf_counter() - started_s) * 1e9)
        span = self._tracer.start_span(name, context, self._kind, attributes, start_time=started_ns)
        return Trace(span, started_s, started_ns)

    def _sampled(self, parent: re.Match[str] | None) -> bool:
        if parent and self._plan.follows:
            return int(parent[3], 16) & 1 == 1
        if self._plan.share in (0.0, 1.0):
            return self._plan.share == 1.0
        return int(parent[1][16:], 16) < self._bound if parent else random.random() < self._plan.share

    def _remote(self, parent: re.Match[str], tracestate: str) -> Any:
        api = self._api
        state = api.TraceState.from_header([tracestate]) if tracestate else None
        flags = api.TraceFlags(int(parent[3], 16))
        span_context = api.SpanContext(int(parent[1], 16), int(parent[2], 16), True, flags, state)
        return api.set_span_in_context(api.NonRecordingSpan(span_context))

    def end(self, trace: Trace, name: str, attributes: Mapping[str, Any], error: str, now_s: float) -> None:
        """Ends the span of a call; `error` is the type of a failure that is the server's, "" where there is none."""
        span = trace.span
        span.update_name(name)
        span.set_attributes(attributes)
        if error:
            span.set_attribute("error.type", error)
            span.set_status(self._api.StatusCode.ERROR)
        span.end(trace.at_ns(now_s))

    def batch(
        self, trace: Trace, others: list[Trace], what: str, submitted_s: float, sizes: Mapping[str, Any], times: Times
    ) -> None:
        """Spans of a wait in the queue and of a batch, below the call's; linked to the other calls of the batch."""
        links = [self._api.Link(other.span.get_span_context()) for other in others if other is not trace]
        self._span(trace, trace.span, "queue", submitted_s, times.began_s)
        batch = self._span(trace, trace.span, "batch", times.began_s, times.answered_s, sizes, links)
        self._span(trace, batch, "features" if what == "events" else "join", times.began_s, times.prepared_s)
        self._span(trace, batch, "model", times.prepared_s, times.computed_s)

    def _span(
        self,
        trace: Trace,
        parent: Span,
        name: str,
        from_s: float,
        to_s: float,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] = (),
    ) -> Span:
        context = self._api.set_span_in_context(parent)
        start_ns = trace.at_ns(from_s)
        span = self._tracer.start_span(name, context, attributes=attributes, links=links, start_time=start_ns)
        span.end(trace.at_ns(to_s))
        return span

    async def stop(self) -> None:
        """Sends what has not been sent, for at most `FLUSH_S` seconds: the collector may be away."""
        sending = Thread(target=self._provider.shutdown, name="vigil-traces", daemon=True)
        sending.start()
        await to_thread(sending.join, FLUSH_S)


def _provider(plan: Plan) -> TracerProvider:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    class SampledIds(RandomIdGenerator):
        """Ids that a sampler of the same share elsewhere would sample as well."""

        def generate_trace_id(self) -> int:
            return random.getrandbits(64) << 64 | random.randrange(1, max(2, int(plan.share * ALL_IDS)))

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "vigil"}))
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=SampledIds())
    for name in plan.exporters:
        (found, *_) = importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name)
        provider.add_span_processor(BatchSpanProcessor(found.load()()))
    return provider


# What the batcher sees: whether there is tracing, and which sampled call submits.
tracing: Tracing | None = None
current: ContextVar[Trace | None] = ContextVar("vigil_trace", default=None)


def trace_batch(
    domain: str, what: str, sampled: Sequence[tuple[Trace, float]], calls: int, rows: int, times: Times
) -> None:
    """Makes the spans of a batch, for those of its calls that are sampled.

    Args:
        domain: of the batch.
        what: "events" or "rows".
        sampled: the sampled calls, with the moments they were submitted.
        calls: in it.
        rows: in it.
        times: of the batch.
    """
    if tracing is None:
        return
    sizes = {"vigil.domain": domain, "vigil.batch.rows": rows, "vigil.batch.calls": calls}
    traces = [trace for trace, _ in sampled[:MOST_BATCHES]]
    for trace, submitted_s in sampled:
        if trace.more():
            tracing.batch(trace, traces, what, submitted_s, sizes, times)
