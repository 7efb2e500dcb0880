"""The hot path of gRPC: pygrpc-native's server, but scoring begins where its calls arrive.

Without it each call gets an object, a context and a task, and the answer a few steps of a coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grpc
import pygrpc_native.aio
from pygrpc_native import EVENT_CALL, EVENT_CANCEL

from vigil.access.gate import Gate
from vigil.observe import calls
from vigil.scoring.caller import Caller
from vigil.transports.grpc.answers import CANCELLED, GRPC, admit, charge, checked, status_of

Begin = Callable[[Any, "float | None", Caller[Any]], None]


class Hot(NamedTuple):
    """A unary method whose answer can be begun without a task: its name, what decodes, what begins."""

    name: str
    decode: Callable[[bytes], Any]
    begin: Begin


class _Call(calls.Call):
    """A call and its caller."""

    __slots__ = ("_gone", "_hot", "_id", "_server")

    def __init__(self, server: HotServer, call_id: int, hot: Hot) -> None:
        super().__init__(GRPC)
        self._server, self._id, self._hot, self._gone = server, call_id, hot, False

    def begin(self, payload: bytes, metadata: Any, peer: str, remaining_s: float | None) -> None:
        """Answers, sooner or later."""
        until_s = None if remaining_s is None else self.started_s + remaining_s
        try:
            gate = self._server.gate
            identity, message = admit(gate, self._hot.name, metadata, peer), checked(self._hot.decode(payload))
            charge(gate, identity, message)
            self._hot.begin(message, until_s, self)
        except Exception as failure:
            self.set_exception(failure)

    def cancel(self) -> None:
        """The caller has gone, or its deadline has passed."""
        self._ends(CANCELLED)

    def done(self) -> bool:
        """Whether it is answered, or nobody waits any more."""
        return self._gone

    def set_result(self, message: Any, /) -> None:
        """Answers with a protobuf message."""
        self._ends("OK")
        self._server.respond(self._id, message.SerializeToString())

    def set_exception(self, failure: Exception, /) -> None:
        """Answers with what went wrong."""
        code, message = status_of(failure, self._hot.name)
        self._ends(code)
        self._server.fail(self._id, grpc.StatusCode[code].value[0], message)

    def _ends(self, code: str) -> None:
        self._gone = True
        self.end(self._hot.name, code)
        self._server.ended(self._id)


class HotServer(pygrpc_native.aio.Server):  # type: ignore[misc]
    """As `grpc.aio`'s server. `_on_events`, `_table` and `_front` are those of pygrpc-native 0.5.0, which is pinned.

    A call takes the ordinary way where more is asked of it: telemetry, a message over the limit, a server that stops.

    Args:
        hot: methods by path.
        gate: that every call passes.
        limit_bytes: of a message.
        options: of pygrpc-native.
    """

    def __init__(self, hot: Mapping[str, Hot], gate: Gate, limit_bytes: int, options: list[tuple[str, Any]]) -> None:
        super().__init__(options=options)
        self.gate, self._by_path, self._limit_bytes = gate, hot, limit_bytes
        self._hot: dict[int, Hot] = {}
        self._open: dict[int, _Call] = {}
        self._idle: asyncio.Event | None = None  # once it stops: set when no hot call is open

    async def start(self) -> None:
        """Opens the port."""
        await super().start()
        self._hot = {i: self._by_path[path] for i, (path, _) in enumerate(self._table) if path in self._by_path}

    async def stop(self, grace: float | None) -> None:
        """Hot calls in flight get `grace` seconds, like all others."""
        self._idle = asyncio.Event()
        if self._open and grace:
            await asyncio.wait((asyncio.ensure_future(self._idle.wait()),), timeout=grace)
        await super().stop(grace)

    def _on_events(self, events: list[tuple[Any, ...]]) -> None:
        others = []
        for event in events:
            kind, call_id, method, payload, _, details = event
            hot = self._hot.get(method) if kind == EVENT_CALL else None
            if hot and len(payload) <= self._limit_bytes and not calls.on and self._idle is None:
                call = self._open[call_id] = _Call(self, call_id, hot)
                call.begin(payload, *details)
            elif kind == EVENT_CANCEL and call_id in self._open:
                self._open[call_id].cancel()
            else:
                others.append(event)
        if others:
            super()._on_events(others)

    def respond(self, call_id: int, message: bytes) -> None:
        """Sends the answer to a hot call."""
        self._front.respond(call_id, message)

    def fail(self, call_id: int, code: int, message: str) -> None:
        """Ends a hot call with a status."""
        self._front.fail(call_id, code, message)

    def ended(self, call_id: int) -> None:
        """A hot call is open no longer."""
        del self._open[call_id]
        if self._idle and not self._open:
            self._idle.set()
