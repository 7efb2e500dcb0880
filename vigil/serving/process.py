"""What one service process holds: an engine a domain, the gRPC server, and whether it is ready."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import Protocol

from vigil import descriptors, domains
from vigil.access import audit, keys
from vigil.access.audit import AuditLog
from vigil.access.gate import LOOK_S, Gate, keys_path
from vigil.access.limits import RateLimits
from vigil.decisions.recorder import Recorder
from vigil.engine import Engine
from vigil.errors import NotFound, VigilError, quote
from vigil.features.shared.connection import Link
from vigil.observe import calls, metrics
from vigil.scoring.session import Session
from vigil.settings import MEMORY, Settings
from vigil.transports.grpc.server import GrpcServer

logger = logging.getLogger(__name__)


class Port(Protocol):
    """Another way in, which opens once all is there."""

    def open(self) -> None: ...

    async def close(self) -> None: ...


class ServingProcess:
    """The engines of a process and their lives. All transports of the process share it.

    Args:
        settings: as read at the start of the process.

    `ports` are opened with it, and closed first; `failure` says in one line why the start failed, "" where it did not.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._audit = AuditLog(audit.folder(settings), _clock_ms, audit.read_key(settings.audit_key_file))
        self._limits = _limits(settings)
        self.gate = Gate(settings, self._limits, self._audit)
        self.domains = domains.select(settings.domains)
        self.by_name: dict[str, Engine] = {}
        self.failure = ""
        self.ports: list[Port] = []
        self.recorder: Recorder | None = None
        self._grpc: GrpcServer | None = None
        self._stopping = False
        self._telling: asyncio.Future[None] | None = None  # held, as the loop does not
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Restores state, loads and warms the models, then opens the gRPC port.

        Raises:
            StateError: where the state cannot be used.
            ConfigError: where the gRPC port is taken, or an `OTEL_*` variable cannot be.
        """
        started_s = time.perf_counter()
        try:
            calls.start(self.settings)
            metrics.WORKERS.set(self.settings.workers)
            metrics.WORKER_STARTS.inc()
            if self.settings.records:
                self.recorder = Recorder(self.settings, _clock_ms)
            for domain in self.domains:
                self.by_name[domain.name] = Engine.open(domain, self.settings, _clock_ms, self.recorder)
            if self.settings.grpc_port:
                self._grpc = GrpcServer(self)
                await self._grpc.start()
            for port in self.ports:
                port.open()
        except VigilError as failure:
            self.failure = f"cannot start: {failure}"
            raise
        # What is loaded now stays, so the garbage collector need not walk through it under load: with 64
        # connections at full rate the p99 was 125 ms before this, 8 ms after.
        gc.collect()
        gc.freeze()
        loop = asyncio.get_running_loop()
        self._looking = loop.create_task(self._look())
        for engine in self.by_name.values():
            engine.watch_state(lambda: loop.call_soon_threadsafe(self._state_changed))
        self._tell()
        descriptors.reserve()
        logger.info("started in %.1f s; %s", time.perf_counter() - started_s, self.not_ready() or "ready")

    async def stop(self) -> None:
        """Not ready; lets gRPC calls in flight finish; brings state to disk."""
        self._stopping = True
        if self._looking:
            self._looking.cancel()
        metrics.READY.set(0)
        for port in self.ports:
            await port.close()
        if self._grpc:
            await self._grpc.stop(self.settings.drain_s)
        for engine in self.by_name.values():
            engine.close()
        if self.recorder:
            self.recorder.close()
        if self._limits:
            self._limits.close()
        self._audit.close()
        await calls.stop()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.gate.look()

    async def load(self, name: str) -> Session:
        """Takes the store's present model of that name, while requests go on; readiness and health follow.

        Raises:
            NotFound, ModelRefused: as `ServedModel.load`; what was loaded stays.
        """
        try:
            with descriptors.reserved():
                return await self.get(name, "model").model.load()
        finally:
            await self._on_change()

    async def unload(self, name: str) -> None:
        """Lets the rules tier answer; readiness and health follow.

        Raises:
            NotFound: listing the models there are.
        """
        await self.get(name, "model").model.unload()
        await self._on_change()

    async def _on_change(self) -> None:
        self._tell()
        if self._grpc:
            await self._grpc.tell_health()

    def _state_changed(self) -> None:
        if not self._stopping:
            self._telling = asyncio.ensure_future(self._on_change())

    def _tell(self) -> None:
        metrics.READY.set(0 if self.not_ready() else 1)
        for name, engine in self.by_name.items():
            metrics.STATE_AWAY.labels(name).set(1 if engine.state_problem else 0)

    def not_ready(self, degraded: bool = False) -> str:
        """Why this process should get no traffic; "" where it should.

        Args:
            degraded: whether it should while the feature state is away: rules answer then.
        """
        if self._stopping:
            return "stopping"
        if len(self.by_name) < len(self.domains):
            return "starting"
        problems = [
            problem
            for engine in self.by_name.values()
            for problem in (engine.model.problem, "" if degraded else engine.state_problem)
        ]
        return "; ".join(problem for problem in problems if problem)

    def get(self, name: str, what: str = "domain") -> Engine:
        """The engine of the domain (the model) `name`.

        Raises:
            NotFound: listing those there are.
        """
        engine = self.by_name.get(name)
        if engine is None:
            raise NotFound(f"no {what} {quote(name)}; there are {', '.join(self.by_name)}")
        return engine


def _limits(settings: Settings) -> RateLimits | None:
    """How often each may call, all workers and machines with one shared state together; None: as often as they like."""
    keyed = settings.access == "keys" or (
        settings.access == "auto" and (settings.jwt_keys or keys.read(keys_path(settings)))
    )
    if not settings.rate_limit and not keyed:  # a key with a limit of its own can come at any time
        return None
    shared = settings.state_url != MEMORY
    return RateLimits(settings, lender=Link(settings.state_url, settings.state_timeout_ms) if shared else None)


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
