"""The gRPC server of one worker: inference, decisions, health and reflection on one port."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2, service_pb2_grpc

from vigil.errors import ConfigError
from vigil.transports.grpc.answers import decoder
from vigil.transports.grpc.decisions import DecisionsService
from vigil.transports.grpc.inference import InferenceService
from vigil.transports.grpc.streams import Streams
from vigil.transports.proto import decisions_pb2, decisions_pb2_grpc

if TYPE_CHECKING:
    from vigil.transports.worker import Worker

logger = logging.getLogger(__name__)

INFERENCE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
DECISIONS = decisions_pb2.DESCRIPTOR.services_by_name["Decisions"].full_name
MOST_WAITING = 1 << 16
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def _brief(record: logging.LogRecord) -> bool:
    """Bytes that are no message are their caller's fault: gRPC answers them itself, and logs a line without a trace."""
    if record.exc_info and isinstance(record.exc_info[1], DecodeError):
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]}", ()
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True


logging.getLogger("grpc._cython.cygrpc").addFilter(_brief)


class GrpcServer:
    """Starts, tells its health and drains.

    Args:
        worker: whose engines answer; its settings give address and limits.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, settings = worker, worker.settings
        self.address = f"{settings.grpc_host}:{settings.grpc_port}"
        self._health, self._streams = health_aio.HealthServicer(), Streams()
        inference, decisions = InferenceService(worker, self._streams), DecisionsService(worker, self._streams)
        options = [
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            # With one worker a taken port shall be an error, not a share of someone else's calls.
            ("grpc.so_reuseport", int(settings.workers > 1)),
            # Of what waits to be taken, grpcio drops all beyond 1,000 as CANCELLED; the batcher says why.
            ("grpc.server.max_pending_requests", MOST_WAITING),
            ("grpc.server.max_pending_requests_hard_limit", MOST_WAITING),
        ]
        self._by = "pygrpc-native" if native(settings.grpc_server, settings.grpc_host) else "grpcio"
        if self._by == "pygrpc-native":
            from vigil.transports.grpc.hot import Hot, HotServer

            infer = decoder(service_pb2.ModelInferRequest.FromString)
            score = decoder(decisions_pb2.ScoreRequest.FromString)
            hot = {
                f"/{INFERENCE}/ModelInfer": Hot("ModelInfer", infer, inference.begin),
                f"/{DECISIONS}/Score": Hot("Score", score, decisions.begin),
            }
            self._server: Any = HotServer(hot, settings.max_body_bytes, options)
        else:
            self._server = grpc.aio.server(options=options)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, _Registry(self._server))
        decisions_pb2_grpc.add_DecisionsServicer_to_server(decisions, _Registry(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (INFERENCE, DECISIONS, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)

    async def start(self) -> None:
        """Opens the port. The events' service is healthy even without a model: the rules tier answers.

        Raises:
            ConfigError: where the port is taken, naming it.
        """
        try:
            self._server.add_insecure_port(self.address)
        except RuntimeError:
            raise ConfigError(f"gRPC port {self.address} is in use or not ours to take: set VIGIL_GRPC_PORT") from None
        await self.tell_health()
        await self._server.start()
        logger.info("gRPC listens on %s, served by %s", self.address, self._by)

    async def tell_health(self) -> None:
        """Sets the health of the server, its services and, under its name, each model."""
        with_model = NOT_SERVING if self._worker.not_ready() else SERVING
        models = {name: SERVING if engine.session else NOT_SERVING for name, engine in self._worker.engines.items()}
        for name, status in {**models, "": with_model, INFERENCE: with_model, DECISIONS: SERVING}.items():
            await self._health.set(name, status)

    async def stop(self, drain_s: float) -> None:
        """Not serving; streams answer what they have read, calls in flight get `drain_s` seconds to finish."""
        await self._health.enter_graceful_shutdown()
        self._streams.stop()
        await self._server.stop(drain_s)


class _Registry:
    """Where generated code registers a servicer: its methods go on to the server with :func:`decoder`."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same methods come by name, too."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        safe = {
            name: each._replace(request_deserializer=decoder(each.request_deserializer))
            for name, each in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, safe),))
        self._server.add_registered_method_handlers(service, safe)


def native(choice: str, host: str) -> bool:
    """Whether pygrpc-native serves, which offers the interface of `grpc.aio`.

    It refuses a message over the limit only once the whole of it, unpacked, is in memory. So unasked
    it is taken only where all callers are on this machine.

    Args:
        choice: `native`, `grpcio` or `auto`.
        host: that the server will listen on.

    Raises:
        ConfigError: where the choice is not installed.
    """
    installed = find_spec("pygrpc_native") is not None
    if choice == "native" and not installed:
        raise ConfigError("VIGIL_GRPC_SERVER=native: pygrpc-native is not installed; install it or set grpcio")
    return choice == "native" or (choice == "auto" and installed and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
