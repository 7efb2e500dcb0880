"""An OpenTelemetry collector: takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from testbed.served import LOCALHOST


class Span(NamedTuple):
    """A span as it came, ids in hexadecimal."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    status: int
    state: str
    attributes: dict[str, Any]
    links: list[str]
    start_ns: int
    end_ns: int
    service: str


class Collector:
    """Listens on a free port of the loopback interface for as long as a `with` block lasts."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        taken = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                taken.extend(spans_of(ExportTraceServiceRequest.FromString(body)))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *about: Any) -> None:
                """Keeps the tests' output clean."""

        self._server = ThreadingHTTPServer((LOCALHOST, 0), Handler)
        self.url = f"http://{LOCALHOST}:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, trace_id: str) -> list[Span]:
        """The spans of a trace, in order of their start."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def named(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace by name; each name once."""
        found = {span.name: span for span in self.of(trace_id)}
        assert len(found) == len(self.of(trace_id))
        return found


def spans_of(request: Any) -> list[Span]:
    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.kind,
            span.status.code,
            span.trace_state,
            attributes_of(span),
            [link.span_id.hex() for link in span.links],
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            attributes_of(part.resource)["service.name"],
        )
        for part in request.resource_spans
        for scope in part.scope_spans
        for span in scope.spans
    ]


def attributes_of(message: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in message.attributes}


def parent(number: int, flags: str = "01") -> dict[str, str]:
    """A `traceparent` header of a caller, its trace known by `number`."""
    return {"traceparent": f"00-{number:032x}-{number:016x}-{flags}"}
