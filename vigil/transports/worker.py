"""What one service process holds: an engine a domain, the gRPC server, and whether it is ready."""

from __future__ import annotations

import asyncio
import gc
import logging
import time

from vigil import domains, metrics, telemetry
from vigil.decisions.recorder import Recorder
from vigil.engine import Engine
from vigil.errors import NotFound, VigilError
from vigil.scoring.session import Session
from vigil.settings import Settings
from vigil.transports.grpc.server import GrpcServer

logger = logging.getLogger(__name__)


class Worker:
    """The engines of a process and their lives. All transports of the process share it.

    Args:
        settings: as read at the start of the process.

    `failure` says in one line why the start failed, "" where it did not.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.domains = domains.selected(settings.domains)
        self.engines: dict[str, Engine] = {}
        self.failure = ""
        self.recorder: Recorder | None = None
        self._grpc: GrpcServer | None = None
        self._stopping = False
        self._telling: asyncio.Future[None] | None = None  # held, as the loop does not

    async def start(self) -> None:
        """Restores state, loads and warms the models, then opens the gRPC port.

        Raises:
            StateError: where the state cannot be used.
            ConfigError: where the gRPC port is taken, or an `OTEL_*` variable cannot be.
        """
        started_s = time.perf_counter()
        try:
            telemetry.start(self.settings)
            metrics.WORKERS.set(self.settings.workers)
            metrics.WORKER_STARTS.inc()
            if self.settings.records:
                self.recorder = Recorder(self.settings, _clock_ms)
            for domain in self.domains:
                self.engines[domain.name] = Engine.open(domain, self.settings, _clock_ms, self.recorder)
            if self.settings.grpc_port:
                self._grpc = GrpcServer(self)
                await self._grpc.start()
        except VigilError as failure:
            self.failure = f"cannot start: {failure}"
            raise
        # What is loaded now stays, so the garbage collector need not walk through it under load: with 64
        # connections at full rate the p99 was 125 ms before this, 8 ms after.
        gc.collect()
        gc.freeze()
        loop = asyncio.get_running_loop()
        for engine in self.engines.values():
            engine.watch_state(lambda: loop.call_soon_threadsafe(self._state_changed))
        self._tell()
        logger.info("started in %.1f s; %s", time.perf_counter() - started_s, self.not_ready() or "ready")

    async def stop(self) -> None:
        """Not ready; lets gRPC calls in flight finish; brings state to disk."""
        self._stopping = True
        metrics.READY.set(0)
        if self._grpc:
            await self._grpc.stop(self.settings.drain_s)
        for engine in self.engines.values():
            engine.close()
        if self.recorder:
            self.recorder.close()
        await telemetry.stop()

    async def load(self, name: str) -> Session:
        """Takes the store's present model of that name, while requests go on; readiness and health follow.

        Raises:
            NotFound, ModelRefused: as :meth:`Engine.load`; what was loaded stays.
        """
        try:
            return await self.engine(name, "model").load()
        finally:
            await self._changed()

    async def unload(self, name: str) -> None:
        """Lets the rules tier answer; readiness and health follow.

        Raises:
            NotFound: listing the models there are.
        """
        await self.engine(name, "model").unload()
        await self._changed()

    async def _changed(self) -> None:
        self._tell()
        if self._grpc:
            await self._grpc.tell_health()

    def _state_changed(self) -> None:
        if not self._stopping:
            self._telling = asyncio.ensure_future(self._changed())

    def _tell(self) -> None:
        metrics.READY.set(0 if self.not_ready() else 1)
        for name, engine in self.engines.items():
            metrics.STATE_AWAY.labels(name).set(1 if engine.state_problem else 0)

    def not_ready(self) -> str:
        """Why this process should get no traffic; "" where it should."""
        if self._stopping:
            return "stopping"
        if len(self.engines) < len(self.domains):
            return "starting"
        problems = [problem for engine in self.engines.values() for problem in (engine.problem, engine.state_problem)]
        return "; ".join(problem for problem in problems if problem)

    def engine(self, name: str, what: str = "domain") -> Engine:
        """The engine of the domain (the model) `name`.

        Raises:
            NotFound: listing those there are.
        """
        engine = self.engines.get(name)
        if engine is None:
            raise NotFound(f"no {what} {name!r}; there are {', '.join(self.engines)}")
        return engine


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
