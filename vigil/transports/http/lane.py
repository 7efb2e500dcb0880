"""The ASGI lane ahead of BentoML: it answers its own routes and hands everything else on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.middleware.cors import CORSMiddleware

from vigil.access.identity import ADMIN, AUDITED, PUBLIC
from vigil.errors import Forbidden, InvalidInput, NotFound, RateLimited, TooLarge, Unauthenticated, VigilError
from vigil.observe import calls, metrics
from vigil.transports.engines import Engines
from vigil.transports.http.answers import error_response, send_response, wrong_method
from vigil.transports.http.message import ENCODING, PEER, Request, check_room, pick_headers, unpack
from vigil.transports.http.protocol import LaneProtocol, Shared
from vigil.transports.http.routes import Route, Routes
from vigil.transports.http.sweep import bound_handshakes

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

UNKNOWN = "unknown"


class Gone(Exception):
    """The caller hung up before its request was complete."""


class Lane:
    """Plain ASGI in front of `app`.

    Bodies over `max_body_bytes` are refused on every route, before they are read where their length
    is announced, else as soon as they are over it.

    Args:
        app: BentoML's own application.
        engines: which answer the lane's routes.
    """

    def __init__(self, app: App, engines: Engines) -> None:
        self._app = app
        self._routes = Routes(engines)
        self._engines, self._gate = engines, engines.gate
        self._max_body_bytes = engines.settings.max_body_bytes
        self._buffered, self._max_buffered_bytes = metrics.BUFFERED.labels(), engines.settings.max_buffered_bytes
        self._calls = calls.Calls("http")
        cors = BentoMLContainer.http.cors.enabled.get()
        options = BentoMLContainer.access_control_options.get() if cors else {}
        self._own: App = self._answer
        if cors:
            self._own = middleware = CORSMiddleware(self._answer, **options)
            self._gate.allow(middleware.is_allowed_origin)

    def protocol(self) -> Callable[..., LaneProtocol]:
        """What makes uvicorn's connections: it answers the hot routes without coming here, where settings allow."""
        settings = self._engines.settings
        hot = self._routes.hot_routes() if settings.http_lane == "protocol" else {}
        return partial(LaneProtocol, Shared(self._calls, hot, self._gate, settings))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (needs := self._routes.passed_on(scope["path"])) is None:
            await self._own(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send, needs)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        """BentoML's start and stop; what stops the start is said in a line, not in a trace."""

        async def brief(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self._engines.failure:
                message = {**message, "message": self._engines.failure}
            await send(message)

        bound_handshakes(asyncio.get_running_loop(), self._engines.settings.stall_s)
        try:
            await self._app(scope, receive, brief)
        except VigilError:
            if not self._engines.failure:
                raise

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        arrived_s = perf_counter()
        template, identity, unpacked = UNKNOWN, None, 0
        report = None
        client = (scope.get("client") or ("",))[0]
        if calls.on:
            report = calls.http_report(scope["method"], scope["path"], scope["headers"], client, arrived_s)
        if report:
            report.enter()
        call = calls.Call(self._calls, report)
        headers = pick_headers(scope["headers"])
        try:
            self._gate.check_host(headers, client)
            route, parameters = self._routes.find(scope["path"], scope["raw_path"])
            template = route.template
            self._check_port(route, scope)
            if scope["method"] == route.method or (scope["method"] == "HEAD" and route.method == "GET"):
                identity = self._gate.admit(headers, route.scope, client, _peer(scope))
                self._check_length(scope)
                if route.check:
                    route.check(parameters)
                body = await self._body(receive)
                if ENCODING in headers:
                    body = await asyncio.to_thread(unpack, headers, body, self._max_body_bytes)
                    unpacked = self._hold(len(body))
                call.started_s = perf_counter()
                if report:
                    report.bytes_in = len(body)
                request = Request(parameters, scope["query_string"], headers, body, arrived_s, identity)
                response = await route.handler(request)
            else:
                response = wrong_method(scope["method"], route.method)
        except Gone:
            return
        except Exception as failure:
            response = error_response(failure, scope["method"], scope["path"])
        finally:
            self._buffered.value -= unpacked
            call.leave()
        call.end(template, str(response.status), len(response.body))
        if identity and route.scope in AUDITED:
            self._gate.record(identity, f"{route.method} {template}", client, scope["path"], str(response.status))
        await send_response(send, response)

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise Gone
        if not message.get("more_body"):
            self._check_size(len(body))
            return body
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._check_size(size)
        return b"".join(parts)

    def _check_port(self, route: Route, scope: Message) -> None:
        port = self._engines.settings.admin_port
        if port and route.scope == ADMIN and (scope.get("server") or ("", 0))[1] != port:
            raise NotFound(f"{route.method} {route.template} is answered on 127.0.0.1:{port} (VIGIL_ADMIN_PORT) alone")

    def _check_length(self, scope: Message) -> None:
        for name, value in scope["headers"]:
            if name == b"content-length":
                self._check_size(int(value))

    def _check_size(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise TooLarge(f"body: got {size} bytes, wanted at most {self._max_body_bytes}")

    def _hold(self, size: int) -> int:
        check_room(self._buffered.value + size, self._max_buffered_bytes)
        self._buffered.value += size
        return size

    async def _pass_on(self, scope: Message, receive: Receive, send: Send, needs: str) -> None:
        """BentoML's own routes, under the same limit of a body, for those with the scope they need."""
        if scope["path"] == "/metrics":
            metrics.flush()
        try:
            headers = pick_headers(scope["headers"])
            client = (scope.get("client") or ("",))[0]
            self._gate.check_host(headers, client)
            # A browser asks without a key whether a page may call.
            identity = self._gate.admit(
                headers, PUBLIC if scope["method"] == "OPTIONS" else needs, client, _peer(scope)
            )
            self._check_length(scope)
            predicts = scope["path"] == "/predict" and scope["method"] == "POST"
            if predicts or any(name == b"transfer-encoding" for name, _ in scope["headers"]):
                body = await self._body(receive)
                if predicts:
                    self._gate.charge(identity, _rows(body) - 1)
                receive = _first(body, receive)
        except (InvalidInput, TooLarge, Unauthenticated, Forbidden, RateLimited) as failure:
            await send_response(send, error_response(failure, scope["method"], scope["path"]))
        except Gone:
            return
        else:
            await self._app(scope, receive, send)


def _peer(scope: Message) -> tuple[str, ...]:
    found: tuple[str, ...] = scope.get("state", {}).get(PEER, ())
    return found


def _rows(body: bytes) -> int:
    """Rows in a body of `/predict`: its brackets, without that of the array around them.

    Raises:
        InvalidInput: for JSON deeper than can be decoded. What else is wrong with it, BentoML says.
    """
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except RecursionError:
        raise InvalidInput("body: got JSON of too many levels, wanted rows of numbers") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    return body.count(b"[") - 1


def _first(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives `body` before anything else."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
