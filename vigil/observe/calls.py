"""What surrounds every call of every transport: its count and its seconds, a span, and a line in the access log.

A transport asks `on` before it makes a report: where neither span nor line is configured that is all these cost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import Any

from vigil.observe import logs, metrics, tracing
from vigil.observe.tracing import TRACEPARENT, Trace
from vigil.settings import Settings

access = logging.getLogger("vigil.access")
PLAIN_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

BEAT_S = 0.25
on = False
_share = 0.0
_beat: asyncio.Task[None] | None = None


class Calls:
    """What the calls of a transport have in common.

    Args:
        transport: "http" or "grpc".
    """

    def __init__(self, transport: str) -> None:
        self.transport, self.in_flight = transport, metrics.IN_FLIGHT.labels(transport)


class Call:
    """One call: in flight from here until it ends, then counted by its route and status.

    Args:
        calls: of its transport.
        report: of it, where somebody is to see one.

    `started_s`, of `time.perf_counter`, is where its seconds begin: a transport that still has to read the request
    moves it to when the whole of it had come.
    """

    __slots__ = ("_calls", "_in_flight", "report", "started_s")

    def __init__(self, calls: Calls, report: Report | None = None) -> None:
        self._calls, self.report, self.started_s, self._in_flight = calls, report, perf_counter(), True
        calls.in_flight.value += 1

    def leave(self) -> None:
        """Nobody waits for it any more; it may still end."""
        if self._in_flight:
            self._in_flight = False
            self._calls.in_flight.value -= 1

    def end(self, route: str, status: str, bytes_out: int = 0) -> None:
        """Counts it, once.

        Args:
            route: template of the path, or name of the method.
            status: HTTP code or gRPC name.
            bytes_out: size of the answer.
        """
        self.leave()
        metrics.call(self._calls.transport, route, status).add(perf_counter() - self.started_s)
        if self.report:
            self.report.end(route, status, bytes_out)


class Report:
    """What is said of one call, to a transport that saw `on`.

    Args:
        transport: "http" or "grpc".
        method: of HTTP, or the full name of a gRPC method.
        headers: values of `traceparent` and `x-request-id`, as far as they came.
        client: address of the caller.
        started_s: when the call began, of `time.perf_counter`.
        trace: of the call, where it is sampled.

    `bytes_in` is the size of the body or message, from when the transport knows it.
    """

    __slots__ = ("_client", "_headers", "_method", "_started_s", "_trace", "_transport", "bytes_in")

    def __init__(
        self,
        transport: str,
        method: str,
        headers: Mapping[str, str],
        client: str,
        started_s: float,
        trace: Trace | None,
    ) -> None:
        self._transport, self._method, self._headers, self._client = transport, method, headers, client
        self._started_s, self._trace = started_s, trace
        self.bytes_in = 0

    def enter(self) -> Report:
        """Makes this the call that log lines and submissions of the present task belong to, until it is answered."""
        logs.ids.set(self.ids)
        tracing.current.set(self._trace)
        return self

    @staticmethod
    def leave() -> None:
        """Undoes `enter` before the answer, for who takes many calls in one task."""
        logs.ids.set(logs.no_ids)
        tracing.current.set(None)

    def end(self, route: str, status: str, bytes_out: int) -> None:
        """Ends the span and writes the line, where there shall be one.

        Args:
            route: template of the path, or name of the method.
            status: HTTP code or gRPC name.
            bytes_out: size of the answer.
        """
        now_s = perf_counter()
        self.leave()
        http = self._transport == "http"
        fault = status in FAULTS or (http and status >= "500")
        if self._trace and tracing.tracing:
            name = f"{self._method} {route}" if http else self._method
            end: dict[str, Any] = (
                {"http.route": route, "http.response.status_code": int(status)}
                if http
                else {"rpc.response.status_code": status}
            )
            tracing.tracing.end(self._trace, name, end, status if fault else "", now_s)
        if _share and (fault or random.random() < _share):
            fields = {
                "transport": self._transport,
                "method": self._method,
                "route": route,
                "status": status,
                "duration_ms": round((now_s - self._started_s) * 1000, 3),
                "bytes_in": self.bytes_in,
                "bytes_out": bytes_out,
                "client": self._client,
                **self.ids(),
            }
            access.info("request", extra={"fields": fields})

    def ids(self) -> dict[str, str]:
        """Ids of trace, span and request, as far as there are any; a span only where the call is sampled."""
        ids = {}
        if self._trace:
            context = self._trace.span.get_span_context()
            ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        elif parent := TRACEPARENT.fullmatch(self._headers.get("traceparent", "")):
            ids = {"trace_id": parent[1]}
        if PLAIN_ID.fullmatch(request_id := self._headers.get("x-request-id", "")):
            ids["request_id"] = request_id
        return ids


def http_report(
    method: str, path: str, headers: Iterable[tuple[bytes, bytes]], client: str, started_s: float
) -> Report | None:
    """Of a call over HTTP, from its method, path and headers (names in lower case); None where nobody would see it."""
    given = {}
    for name, value in headers:
        if name in (b"traceparent", b"tracestate", b"x-request-id"):
            given[name.decode()] = value.decode("latin-1")
    attributes = {"http.request.method": method, "url.path": path, "url.scheme": "http", "client.address": client}
    return _report("http", method, attributes, given, client, started_s)


def address_of(peer: str) -> str:
    """The address in what gRPC calls a peer: `ipv4:127.0.0.1:40000`, `ipv6:%5B::1%5D:40000`."""
    host = peer.partition(":")[2].rpartition(":")[0]
    return host.removeprefix("%5B").removesuffix("%5D").removeprefix("[").removesuffix("]")


def grpc_report(service: str, name: str, context: Any, started_s: float) -> Report | None:
    """Of a call over gRPC, to the method `name` of the service with that full name; None where nobody would see it."""
    given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    client = address_of(context.peer())
    method = f"{service}/{name}"
    attributes = {"rpc.system.name": "grpc", "rpc.method": method, "client.address": client}
    return _report("grpc", method, attributes, given, client, started_s)


def _report(
    transport: str,
    method: str,
    attributes: Mapping[str, Any],
    headers: Mapping[str, str],
    client: str,
    started_s: float,
) -> Report | None:
    trace = None
    if tracing.tracing:
        parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
        trace = tracing.tracing.begin(method, attributes, parent, state, started_s)
    if trace or _share:
        return Report(transport, method, headers, client, started_s, trace)
    Report.leave()  # what one call began for another, the other does not belong to
    return None


def start(settings: Settings) -> None:
    """Takes up what is configured; needs a running loop.

    Raises:
        ConfigError: as `vigil.observe.tracing.plan`.
    """
    global on, _share, _beat
    planned = tracing.plan(os.environ)
    access.setLevel(logging.INFO)
    metrics.bury()
    tracing.tracing = tracing.Tracing(planned) if planned else None
    _share = settings.access_log
    on = bool(planned or _share)
    _beat = asyncio.get_running_loop().create_task(_beats())


async def _beats() -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        metrics.flush()
        logs.repeats.settle()


async def stop() -> None:
    """Brings metrics to their files and spans to the collector."""
    global on, _share, _beat
    on, _share = False, 0.0
    if _beat:
        _beat.cancel()
        await asyncio.gather(_beat, return_exceptions=True)
        _beat = None
    metrics.flush()
    if tracing.tracing:
        sender, tracing.tracing = tracing.tracing, None
        await sender.stop()
    logs.repeats.settle()
