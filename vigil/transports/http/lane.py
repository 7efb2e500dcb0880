"""The ASGI lane ahead of BentoML: it answers its own routes and hands everything else on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from time import perf_counter
from typing import Any

from vigil import metrics, telemetry
from vigil.errors import TooLarge, VigilError
from vigil.transports.http.answers import failed, wrong_method
from vigil.transports.http.message import Request, Response, noted
from vigil.transports.http.protocol import LaneProtocol, Shared
from vigil.transports.http.routes import Routes
from vigil.transports.worker import Worker

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
        worker: whose engines answer the lane's routes.
    """

    def __init__(self, app: App, worker: Worker) -> None:
        self._app = app
        self._routes = Routes(worker)
        self._worker = worker
        self._max_body_bytes = worker.settings.max_body_bytes
        self._in_flight = metrics.IN_FLIGHT.labels("http")

    def protocol(self) -> Callable[..., LaneProtocol]:
        """What makes uvicorn's connections: it answers the hot routes without coming here, where settings allow."""
        settings = self._worker.settings
        hot = self._routes.hot() if settings.http_lane == "protocol" else {}
        return partial(LaneProtocol, Shared(hot, settings.max_body_bytes, settings.stall_s))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._routes.owns(scope["path"]):
            self._in_flight.value += 1
            try:
                await self._answer(scope, receive, send)
            finally:
                self._in_flight.value -= 1
        else:
            await self._pass_on(scope, receive, send)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        """BentoML's start and stop; what stops the start is said in a line, not in a trace."""

        async def brief(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self._worker.failure:
                message = {**message, "message": self._worker.failure}
            await send(message)

        try:
            await self._app(scope, receive, brief)
        except VigilError:
            if not self._worker.failure:
                raise

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        arrived_s = started_s = perf_counter()
        template = UNKNOWN
        call = None
        if telemetry.on:
            client = (scope.get("client") or ("",))[0]
            call = telemetry.http_call(scope["method"], scope["path"], scope["headers"], client, arrived_s)
        if call:
            call.enter()
        try:
            route, parameters = self._routes.find(scope["path"], scope["raw_path"])
            template = route.template
            if scope["method"] == route.method:
                self._check_length(scope)
                if route.check:
                    route.check(parameters)
                body = await self._body(receive)
                started_s = perf_counter()
                if call:
                    call.bytes_in = len(body)
                request = Request(parameters, scope["query_string"], noted(scope["headers"]), body, arrived_s)
                response = await route.handler(request)
            else:
                response = wrong_method(scope["method"], route.method)
        except Gone:
            return
        except Exception as failure:
            response = failed(failure, scope["method"], scope["path"])
        metrics.answered("http", template, str(response.status), started_s)
        if call:
            call.answered(template, str(response.status), len(response.body))
        await _send(send, response)

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

    def _check_length(self, scope: Message) -> None:
        for name, value in scope["headers"]:
            if name == b"content-length":
                self._check_size(int(value))

    def _check_size(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise TooLarge(f"body: got {size} bytes, wanted at most {self._max_body_bytes}")

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        """BentoML's own routes, under the same limit of a body."""
        if scope["path"] == "/metrics":
            metrics.flush()
        try:
            self._check_length(scope)
            if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
                receive = _first(await self._body(receive), receive)
        except TooLarge as failure:
            await _send(send, failed(failure, scope["method"], scope["path"]))
        except Gone:
            return
        else:
            await self._app(scope, receive, send)


def _first(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives `body` before anything else."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _send(send: Send, response: Response) -> None:
    headers = (*response.headers, (b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
