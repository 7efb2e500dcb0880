"""The hot lane: an HTTP protocol that answers the hot routes itself and hands all else to uvicorn's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from functools import partial
from time import perf_counter
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from vigil.access.gate import Gate
from vigil.access.identity import ANYONE, Identity
from vigil.errors import Forbidden, Overloaded
from vigil.observe import calls, metrics
from vigil.scoring.caller import future_of, run_for
from vigil.settings import Settings, is_loopback
from vigil.transports.http import laws
from vigil.transports.http.answers import CLOSE, Send, error_response, send_response
from vigil.transports.http.door import FULL, Door
from vigil.transports.http.message import ENCODING, HOST, NOTED, ORIGIN, PEER, Request, Response, check_room, unpack
from vigil.transports.http.routes import Match
from vigil.transports.http.sweep import Sweep, Swept
from vigil.transports.tls import http_peer

METHOD = "POST"
UNKNOWN = "unknown"
MAX_HEAD_BYTES = 64 << 10
MOST_HOSTS = 1024
LINGER_BYTES = 256 << 20
END = b"content-length: 0\r\nconnection: close\r\n\r\n"
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + END
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n" + END
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n" + END
LENGTH = b"content-length"
# How long a stopping service waits for requests of idle connections: they may be on their way.
LINGER_S = 0.25
LARGE_BYTES = 16 << 10  # of a body that came in one piece, from where it counts as held
# Headers that mean something here: the length, what uvicorn and the ASGI lane alone know how to handle, what is noted.
LENGTHS, SPECIAL, NOTES, BOTH = range(4)
KINDS = dict.fromkeys(NOTED, NOTES) | {
    LENGTH: LENGTHS,
    b"expect": SPECIAL,
    laws.TRANSFER_ENCODING: SPECIAL,
    ORIGIN: BOTH,
}
# An upgrade that nobody offers, and what belongs to it.
UPGRADE = frozenset((b"upgrade", b"http2-settings"))


class Shared:
    """What the connections of a process have in common.

    Args:
        calls: of HTTP.
        routes: the hot ones, by path.
        gate: that every call passes.
        settings: with bodies longer than `max_body_bytes` uvicorn and the ASGI lane deal; all connections together
            hold no more than about `max_buffered_bytes` of bodies that came and answers that nobody took.
    """

    def __init__(self, calls: calls.Calls, routes: Mapping[bytes, Match], gate: Gate, settings: Settings) -> None:
        self.calls, self.routes, self.gate = calls, routes, gate
        self.max_body_bytes, self.max_buffered_bytes = settings.max_body_bytes, settings.max_buffered_bytes
        self.buffered = metrics.BUFFERED.labels()
        self.sweep, self.door = Sweep(settings.stall_s), Door(settings)
        self.stopping = False
        self.good_hosts: set[bytes | None] = set()  # values of `Host` that were looked at
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._heads: dict[tuple[int, tuple[tuple[bytes, bytes], ...]], bytes] = {}

    def check_host(self, headers: Mapping[bytes, bytes], origin: str) -> None:
        """Raises Forbidden for a `Host` or an `Origin` that is not to call."""
        self.gate.check_host(headers, origin)
        if HOST in headers and len(self.good_hosts) < MOST_HOSTS and ORIGIN not in headers:
            self.good_hosts.add(headers[HOST])

    def check_room(self, more_bytes: int = 0) -> None:
        """Raises Overloaded where a body of so many bytes is one too many."""
        check_room(self.buffered.value + more_bytes, self.max_buffered_bytes)

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


class _Lingering:
    """A connection's transport, as uvicorn sees it: closed by way of the connection, which may first read on."""

    def __init__(self, transport: Any, connection: LaneProtocol) -> None:
        self._transport, self._connection = transport, connection
        self.write, self.close = transport.write, connection.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing is to be written any more."""
        return self._connection.lingers or self._transport.is_closing()


class Exchange(calls.Call):
    """One hot request and its answer: the caller of what begins with it, and uvicorn's cycle meanwhile.

    uvicorn's protocol lets later requests of the connection wait while `response_complete` is false,
    sets `disconnected` and `message_event` when it is lost and clears `keep_alive` at a shutdown.
    """

    __slots__ = (
        "_connection", "arrived_s", "disconnected", "identity", "keep_alive", "match", "query", "response_complete",
    )  # fmt: skip

    message_event = _Nothing()

    def __init__(
        self, http: calls.Calls, connection: LaneProtocol, match: Match, query: bytes, keep_alive: bool
    ) -> None:
        super().__init__(http)
        self._connection, self.match, self.query, self.keep_alive = connection, match, query, keep_alive
        self.arrived_s, self.response_complete, self.disconnected = self.started_s, False, False
        self.identity: Identity = ANYONE

    def done(self) -> bool:
        """Whether it is answered, or nobody is there any more."""
        return self.response_complete or self.disconnected

    def set_result(self, response: Response, /) -> None:
        """Answers."""
        self.response_complete = True
        self._connection.answer(self, response)

    def set_exception(self, failure: Exception, /) -> None:
        """Answers with what went wrong."""
        self.set_result(error_response(failure, METHOD, self.match.route.template))


class LaneProtocol(Swept, HttpToolsProtocol):
    """A connection. A hot request is answered here where nothing waits before it on the connection and only
    its body needs care: pipelined behind another, with `Expect`, in chunks or too long it takes uvicorn's way.

    Args:
        shared: with the process's other connections.
        uvicorn: what uvicorn gives its protocols.
    """

    def __init__(self, shared: Shared, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.ws_protocol_class = None  # WebSockets are not offered; uvicorn's connections of them pass no gate
        self._shared = shared
        self._peer: tuple[str, ...] = ()  # names in the certificate that the caller has shown
        self._exchange: Exchange | None = None  # whose body is being read
        self._hot: Exchange | None = None  # the last one
        self._parts: list[bytes] = []
        self._noted: dict[bytes, bytes] = {}
        self._in_head = self._rereads = self._foreign = False
        self._special = self._two_hosts = False  # what the request's head is
        self._length = 0  # of its body, as announced
        self._origin = ""  # address of the caller
        self.receiving = False  # a request
        self.lingers = False  # reads on, though it is closed
        # Bytes since the last one of a body: a head, the sizes of chunks, trailers.
        self._framing_bytes = 0
        self._held_bytes = self._unsent_bytes = self._lingered_bytes = 0
        self.since_s = perf_counter()  # when it began to be idle, to receive, to linger, or to see nothing taken

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._transport, self._origin = transport, self.client[0] if self.client else ""
        self._foreign = self._shared.gate.mode == "local" and bool(self._origin) and not is_loopback(self._origin)
        self._peer = http_peer(transport) if self.scheme == "https" else ()
        self.transport = _Lingering(transport, self)  # type: ignore[assignment]
        self._shared.sweep.watch(self.loop, self.connections)
        if not self._shared.door.enter(transport, self._origin):
            transport.write(FULL)
            transport.close()
            self.loop.call_later(LINGER_S, transport.abort)  # over TLS, a close waits for the other end
        if self._shared.stopping:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hold(-self._held_bytes)
        if self._hot:  # others may be pipelined behind it
            self._hot.disconnected = True
            self._hot.leave()
        self._shared.door.leave(self._origin)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.lingers:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > LINGER_BYTES:
                self._transport.abort()
            return
        self._unset_keepalive_if_required()
        self._framing_bytes += len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._on_upgrade(data, upgrade)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        else:
            if self.receiving and not self.transport.is_closing():
                self._on_part(len(data))

    def _on_part(self, size: int) -> None:
        """Some of a request has come, and not all."""
        self._hold(size)
        if self._framing_bytes > MAX_HEAD_BYTES:
            self._end(HEAD_TOO_LARGE)
        elif self._shared.buffered.value > self._shared.max_buffered_bytes:
            self._end(TOO_MANY)

    def _on_upgrade(self, data: bytes, upgrade: httptools.HttpParserUpgrade) -> None:
        while not self.lingers:
            # What follows is the body of this request, and others; the parser takes it for another protocol.
            data = self._head_again() + data[upgrade.args[0] :]
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as another:
                upgrade = another

    def _head_again(self) -> bytes:
        """The head of a request to upgrade, without that, for a new parser to read."""
        self._rereads = False
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            raise httptools.HttpParserError("there is nothing to connect to")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        lines = [method + b" " + self.url + b" HTTP/" + version.encode()]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.lower().split(b",")]
                lines.append(b"connection: " + b", ".join(token for token in tokens if token not in UPGRADE))
            elif name not in UPGRADE:
                lines.append(name + b": " + value)
        return b"\r\n".join((*lines, b"\r\n"))

    def on_message_begin(self) -> None:
        self.url, self.headers, self._noted = b"", [], {}
        self._in_head = self.receiving = True
        self._length, self._special, self._two_hosts, self.since_s = 0, False, False, perf_counter()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer: it means nothing here
            return
        name = name.lower()
        self.headers.append((name, value))
        kind = KINDS.get(name)
        if kind is None:
            return
        if kind == LENGTHS:
            self._length = int(value)
            return
        if kind != NOTES:
            self._special = True
        if kind != SPECIAL:
            if name not in self._noted:
                self._noted[name] = value
            elif name == HOST:
                self._two_hosts = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.lingers:
            return
        parser, shared = self.parser, self._shared
        if parser.should_upgrade():
            self._rereads = True
            return
        plain = (
            not self._special
            and not self._two_hosts
            and not self._foreign
            and self._length + shared.buffered.value <= shared.max_buffered_bytes
            and self._noted.get(HOST) in shared.good_hosts
            and parser.get_http_version() == "1.1"
        )
        if not plain and (refusal := self._refusal(parser.get_http_version())) is not None:
            self._hand_over(partial(_refuse, shared.calls, refusal))
            return
        path, _, query = self.url.partition(b"?")
        match = shared.routes.get(path)
        if match is None or not self._takes(query):
            self._hand_over()
            return
        kept = parser.should_keep_alive() and (plain or parser.get_http_version() != "1.0")
        self._exchange = self._hot = exchange = Exchange(shared.calls, self, match, query, kept and not shared.stopping)
        self.cycle = exchange  # type: ignore[assignment]
        if calls.on:
            exchange.report = calls.http_report(
                METHOD, path.decode("latin-1"), self.headers, self._origin, exchange.arrived_s
            )
        try:
            exchange.identity = shared.gate.admit(self._noted, match.route.scope, self._origin, self._peer)
            if match.route.check:
                match.route.check(match.parameters)
        except Exception as failure:
            exchange.set_exception(failure)

    def _refusal(self, version: str) -> Response | None:
        """The answer to a request that is not to be looked at any further; None for all others."""
        if (broken := laws.broken(version, self.headers)) is not None:
            return broken
        try:
            if self._foreign:
                raise Forbidden("VIGIL_ACCESS=local: only this machine may call")
            self._shared.check_host(self._noted, self._origin)
            self._shared.check_room(self._length if self._length <= self._shared.max_body_bytes else 0)
        except (Forbidden, Overloaded) as failure:
            response = error_response(failure, "", "")
            response.headers += (CLOSE,)
            return response
        return None

    def _takes(self, query: bytes) -> bool:
        """Whether a request for a hot route can stay here."""
        if self._special or self._length > self._shared.max_body_bytes or b"#" in query or self.flow.write_paused:
            return False
        return self._free() and self.parser.get_method() == b"POST"

    def _free(self) -> bool:
        """Whether every request up to here is answered."""
        return self.cycle is None or self.cycle.response_complete

    def _hand_over(self, app: Any = None) -> None:
        """Lets uvicorn see what came up to here, and another application than its own answer."""
        url, headers, own = self.url, self.headers, self.app
        super().on_message_begin()
        self.scope["state"][PEER] = self._peer
        super().on_url(url)
        for name, value in headers:
            super().on_header(name, value)
        self.app = app or own
        try:
            super().on_headers_complete()
        finally:
            self.app = own
        if self._shared.stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if self.lingers or self.cycle.response_complete:
            return
        if self._exchange is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def _hold(self, more_bytes: int) -> None:
        self._held_bytes += more_bytes
        self._shared.buffered.value += more_bytes

    def on_message_complete(self) -> None:
        self.receiving = False
        self._framing_bytes = 0
        if self._rereads or self.lingers:
            return
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            super().on_message_complete()
            return
        parts, self._parts = self._parts, []
        if exchange.done():
            return
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(body) > LARGE_BYTES and not self._held_bytes:
            self._hold(len(body))
        match, noted = exchange.match, self._noted
        exchange.started_s = perf_counter()
        if exchange.report:
            exchange.report.enter().bytes_in = len(body)
        request = Request(match.parameters, exchange.query, noted, body, exchange.arrived_s, exchange.identity)
        try:
            if ENCODING in noted:
                run_for(exchange, self._unpacked(exchange, request))
            else:
                match.route.begin(request, exchange)  # type: ignore[misc]
        except Exception as failure:
            exchange.set_exception(failure)
        if exchange.report:
            exchange.report.leave()

    async def _unpacked(self, exchange: Exchange, request: Request) -> Response:
        request.body = await asyncio.to_thread(unpack, request.headers, request.body, self._shared.max_body_bytes)
        if exchange.done() or self._transport.is_closing():  # the bytes would never be given back
            raise Overloaded("the caller has gone")
        self._shared.check_room(len(request.body))
        self._hold(len(request.body))
        return await future_of(lambda caller: exchange.match.route.begin(request, caller))  # type: ignore[misc]

    def answer(self, exchange: Exchange, response: Response) -> None:
        """Writes the answer to a hot request, and lets those behind it go on."""
        exchange.end(exchange.match.route.template, str(response.status), len(response.body))
        if self._held_bytes:
            self._hold(-self._held_bytes)
        transport = self._transport
        if self.lingers or transport.is_closing():
            return
        head = self._shared.head(self.server_state.default_headers, response)
        end = b"%d\r\n\r\n" if exchange.keep_alive else b"%d\r\nconnection: close\r\n\r\n"
        transport.write(b"".join((head, end % len(response.body), response.body)))
        self.since_s = perf_counter()
        if not exchange.keep_alive:
            self.close()
        if self.pipeline:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1

    def on_response_complete(self) -> None:
        self.since_s = perf_counter()
        if not self.flow.write_paused:
            self._hold(-self._held_bytes)
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
        self._hold(self.transport.get_write_buffer_size())
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        self._hold(-self._held_bytes)
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """Answers what is under way or arrives within `LINGER_S`, and closes."""
        self._shared.stopping = True
        if self.lingers:
            self._transport.close()
        elif self._free():
            self.loop.call_later(LINGER_S, self._close_idle)
        else:
            self.cycle.keep_alive = False

    def _close_idle(self) -> None:
        if self._free() and not self.receiving:
            self.transport.close()

    def overdue(self, now_s: float, stall_s: float) -> bool:
        takes_nothing = self._must_drain()
        if takes_nothing:
            unsent_bytes = self.transport.get_write_buffer_size()
            if unsent_bytes != self._unsent_bytes:
                self._unsent_bytes, self.since_s = unsent_bytes, now_s
        if takes_nothing or self.receiving:
            return now_s - self.since_s > stall_s
        return self._free() and now_s - self.since_s > self.timeout_keep_alive

    def _must_drain(self) -> bool:
        """Whether its caller has to read before anything else happens; closing, it waits for that, too."""
        return self.flow.write_paused or self.transport.is_closing()

    def evict(self) -> None:
        """Ends the connection; a caller amid its request hears why."""
        if self._must_drain():
            self.transport.abort()
        elif self.receiving:
            self._end(TOO_SLOW)
        else:
            self.transport.close()

    def close(self) -> None:
        """Ends the connection. One whose peer still sends is read on, to no end: a reset would cost it the answer."""
        if not self.receiving or self._transport.is_closing():
            self._transport.close()
        elif not self.lingers:
            self.lingers, self.since_s = True, perf_counter()
            self._exchange, self._parts = None, []
            if self.cycle and not self.cycle.response_complete:  # nobody waits for its answer
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._hold(-self._held_bytes)
            self.flow.resume_reading()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def _end(self, answer: bytes) -> None:
        """Closes, with an answer to the request that is being read, unless that would be out of its turn."""
        if self._free() or not (self._in_head or getattr(self.cycle, "response_started", False)):
            self.transport.write(answer)
        self.transport.close()


async def _refuse(
    http: calls.Calls, response: Response, scope: MutableMapping[str, Any], receive: Any, send: Send
) -> None:
    """An ASGI application with one answer."""
    calls.Call(http).end(UNKNOWN, str(response.status), len(response.body))
    await send_response(send, response)
