"""The hot lane: an HTTP protocol that answers the hot routes itself and replays all else into uvicorn's."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from vigil import metrics, telemetry
from vigil.transports.http.answers import failed
from vigil.transports.http.message import NOTED, Request, Response
from vigil.transports.http.routes import Match
from vigil.transports.http.sweep import Sweep, Swept

METHOD = "POST"
MAX_HEAD_BYTES = 64 << 10
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
LENGTH = b"content-length"
# What uvicorn alone knows how to handle; the length is looked at here.
WATCHED = frozenset((LENGTH, b"expect", b"transfer-encoding", b"upgrade"))


class Shared:
    """What the connections of a process have in common.

    Args:
        routes: the hot ones, by path.
        max_body_bytes: with longer bodies uvicorn and the ASGI lane deal.
        stall_s: how long a request may take to arrive, and an answer to be taken.
    """

    def __init__(self, routes: Mapping[bytes, Match], max_body_bytes: int, stall_s: float) -> None:
        self.routes, self.max_body_bytes = routes, max_body_bytes
        self.sweep = Sweep(stall_s)
        self.in_flight = metrics.IN_FLIGHT.labels("http")
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._heads: dict[tuple[int, tuple[tuple[bytes, bytes], ...]], bytes] = {}

    def head(self, defaults: list[tuple[bytes, bytes]], response: Response) -> bytes:
        """Status line and headers as uvicorn writes them, up to the value of the length.

        Args:
            defaults: uvicorn's, with the date; a new list each second, so what is remembered stays small.
            response: whose head is wanted.
        """
        if defaults is not self._defaults:
            self._defaults = defaults
            self._heads.clear()
        key = (response.status, response.headers)
        head = self._heads.get(key)
        if head is None:
            lines = b"".join(b"%b: %b\r\n" % pair for pair in (*defaults, *response.headers))
            head = self._heads[key] = STATUS_LINE[response.status] + lines + LENGTH + b": "
        return head


class _Nothing:
    """An event nobody waits for."""

    def set(self) -> None: ...


class Exchange:
    """One hot request and its answer: the caller of what begins with it, and uvicorn's cycle meanwhile.

    uvicorn's protocol lets later requests of the connection wait while `response_complete` is false,
    sets `disconnected` and `message_event` when it is lost and clears `keep_alive` at a shutdown.
    """

    __slots__ = (
        "_connection", "arrived_s", "call", "disconnected", "keep_alive", "match", "query", "response_complete",
        "started_s",
    )  # fmt: skip

    message_event = _Nothing()

    def __init__(self, connection: LaneProtocol, match: Match, query: bytes, keep_alive: bool) -> None:
        self._connection, self.match, self.query, self.keep_alive = connection, match, query, keep_alive
        self.arrived_s = self.started_s = perf_counter()
        self.response_complete = self.disconnected = False
        self.call: telemetry.Call | None = None

    def done(self) -> bool:
        """Whether it is answered, or nobody is there any more."""
        return self.response_complete or self.disconnected

    def set_result(self, response: Response, /) -> None:
        """Answers."""
        self.response_complete = True
        self._connection.answer(self, response)

    def set_exception(self, failure: Exception, /) -> None:
        """Answers with what went wrong."""
        self.set_result(failed(failure, METHOD, self.match.route.template))


class LaneProtocol(Swept, HttpToolsProtocol):
    """A connection. A hot request is answered here where nothing waits before it on the connection and only
    its body needs care: pipelined behind another, with `Expect`, in chunks or too long it takes uvicorn's way.

    Args:
        shared: with the process's other connections.
        uvicorn: what uvicorn gives its protocols.
    """

    def __init__(self, shared: Shared, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._shared = shared
        self._exchange: Exchange | None = None  # whose body is being read
        self._parts: list[bytes] = []
        self._watched: list[tuple[bytes, bytes]] = []
        self._noted: dict[bytes, bytes] = {}
        self._in_head = self.receiving = False
        self._in_flight = 0  # hot requests
        self._head_bytes = self._unsent_bytes = 0
        self.since_s = perf_counter()  # when it began to be idle, to receive, or to see nothing taken by its reader

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._shared.sweep.watch(self.loop, self.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        super().connection_lost(exc)

    def _left(self) -> None:
        self._shared.in_flight.value -= self._in_flight
        self._in_flight = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._end(HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        self.url, self.headers, self._watched, self._noted = b"", [], [], {}
        self._in_head = self.receiving = True
        self._head_bytes, self.since_s = 0, perf_counter()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name in WATCHED:
            self._watched.append((name, value))
        elif name in NOTED:
            self._noted.setdefault(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        path, _, query = self.url.partition(b"?")
        match = self._shared.routes.get(path)
        if match is None or not self._takes(query):
            self._replay()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._exchange = self.cycle = exchange = Exchange(self, match, query, keep_alive)  # type: ignore[assignment]
        self._in_flight = 1
        self._shared.in_flight.value += 1
        if telemetry.on:
            client = self.client[0] if self.client else ""
            exchange.call = telemetry.http_call(
                METHOD, path.decode("latin-1"), self.headers, client, exchange.arrived_s
            )
        try:
            if match.route.check:
                match.route.check(match.parameters)
        except Exception as failure:
            exchange.set_exception(failure)

    def _takes(self, query: bytes) -> bool:
        """Whether a request for a hot route can stay here."""
        for name, value in self._watched:
            if name != LENGTH or int(value) > self._shared.max_body_bytes:
                return False
        if b"#" in query or self.flow.write_paused:
            return False
        return self._free() and self.parser.get_method() == b"POST"

    def _free(self) -> bool:
        """Whether every request up to here is answered."""
        return self.cycle is None or self.cycle.response_complete

    def _replay(self) -> None:
        """Lets uvicorn see what came up to here."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        super().on_url(url)
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._exchange is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        self.receiving = False
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            super().on_message_complete()
            return
        parts, self._parts = self._parts, []
        if exchange.done():
            return
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        match = exchange.match
        request = Request(match.parameters, exchange.query, self._noted, body, exchange.arrived_s)
        exchange.started_s = perf_counter()
        if exchange.call:
            exchange.call.enter().bytes_in = len(body)
        try:
            match.route.begin(request, exchange)  # type: ignore[misc]
        except Exception as failure:
            exchange.set_exception(failure)
        if exchange.call:
            exchange.call.leave()

    def answer(self, exchange: Exchange, response: Response) -> None:
        """Writes the answer to a hot request, and lets those behind it go on."""
        metrics.answered("http", exchange.match.route.template, str(response.status), exchange.started_s)
        self._left()
        if exchange.call:
            exchange.call.answered(exchange.match.route.template, str(response.status), len(response.body))
        transport = self.transport
        if transport.is_closing():
            return
        head = self._shared.head(self.server_state.default_headers, response)
        end = b"%d\r\n\r\n" if exchange.keep_alive else b"%d\r\nconnection: close\r\n\r\n"
        transport.write(b"".join((head, end % len(response.body), response.body)))
        self.since_s = perf_counter()
        if not exchange.keep_alive:
            transport.close()
        if self.pipeline:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1

    def on_response_complete(self) -> None:
        self.since_s = perf_counter()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Says that what came is not HTTP, but not ahead of the answer to what came before it."""
        if self._free() or (self.receiving and not self._in_head):
            super().send_400_response(msg)
        else:
            self.cycle.keep_alive = False
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        """The caller does not take its answers: nothing more is read from it."""
        self.since_s = perf_counter()
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def overdue(self, now_s: float, stall_s: float) -> bool:
        if self.flow.write_paused:
            unsent_bytes = self.transport.get_write_buffer_size()
            if unsent_bytes != self._unsent_bytes:
                self._unsent_bytes, self.since_s = unsent_bytes, now_s
        if self.flow.write_paused or self.receiving:
            return now_s - self.since_s > stall_s
        return self._free() and now_s - self.since_s > self.timeout_keep_alive

    def evict(self) -> None:
        """Ends the connection; a caller amid its request hears why."""
        if self.flow.write_paused:
            self.transport.abort()
        elif self.receiving:
            self._end(TOO_SLOW)
        else:
            self.transport.close()

    def _end(self, answer: bytes) -> None:
        """Closes, with an answer to the request that is being read, unless that would be out of its turn."""
        if self._free() or not (self._in_head or getattr(self.cycle, "response_started", False)):
            self.transport.write(answer)
        self.transport.close()
