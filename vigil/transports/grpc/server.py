"""The gRPC server of one worker: inference, decisions, health and reflection on one port."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2_grpc as reflection_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from tritonclient.grpc import service_pb2, service_pb2_grpc

from vigil import descriptors
from vigil.access.gate import Gate
from vigil.errors import ConfigError, VigilError
from vigil.settings import Settings, is_loopback
from vigil.transports.engines import Engines
from vigil.transports.grpc.answers import admitted, decoder
from vigil.transports.grpc.decisions import DecisionsService
from vigil.transports.grpc.inference import InferenceService
from vigil.transports.grpc.streams import Streams
from vigil.transports.proto import decisions_pb2, decisions_pb2_grpc
from vigil.transports.tls import Certificates

logger = logging.getLogger(__name__)

INFERENCE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
DECISIONS = decisions_pb2.DESCRIPTOR.services_by_name["Decisions"].full_name
MOST_WAITING = 1 << 14
MOST_STREAMS = 1 << 12
HANDSHAKE_MS = 20_000
# docs/inference-protocol.md reviews the options of both servers, one by one.
OPTIONS = [
    # Of what waits to be taken, grpcio drops all beyond 1,000 as CANCELLED; the batcher says why.
    ("grpc.server.max_pending_requests", MOST_WAITING),
    ("grpc.server.max_pending_requests_hard_limit", MOST_WAITING),
    # By default a client that pings more often than every 5 minutes loses its connection and all streams on it.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client that has gone without a word is noticed after this, not after two hours: its calls hold memory.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
]
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
        engines: which answer; its settings give address and limits.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines, settings = engines, engines.settings
        self.address = settings.grpc_address
        self._certificates = Certificates.of(settings)
        self._health, self._streams = health_aio.HealthServicer(), Streams()
        inference, decisions = InferenceService(engines, self._streams), DecisionsService(engines, self._streams)
        options = [
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            # With one worker a taken port shall be an error, not a share of someone else's calls.
            ("grpc.so_reuseport", int(settings.workers > 1)),
            *OPTIONS,
        ]
        if settings.grpc_connection_age_s:
            # Calls that reach a server which has just begun to stop end as CANCELLED, as nobody has told their client
            # yet (grpc/grpc#24237). A connection asked to end for its age loses none: so a pod loses its clients first.
            options.append(("grpc.max_connection_age_ms", max(1, int(settings.grpc_connection_age_s * 1000))))
        self._by = "pygrpc-native" if native(settings) else "grpcio"
        if self._by == "pygrpc-native":
            from vigil.transports.grpc.hot import Hot, HotServer

            infer = decoder(service_pb2.ModelInferRequest.FromString)
            score = decoder(decisions_pb2.ScoreRequest.FromString)
            hot = {
                f"/{INFERENCE}/ModelInfer": Hot("ModelInfer", infer, inference.begin),
                f"/{DECISIONS}/Score": Hot("Score", score, decisions.begin),
            }
            self._server: Any = HotServer(hot, engines.gate, settings.max_body_bytes, options)
        else:
            most = settings.max_connections or descriptors.unused() // 2  # the other half is for HTTP
            options.append(("grpc.max_allowed_incoming_connections", max(1, most)))
            # A call costs up to 90 KB here. grpcio counts calls that have just ended too: it refuses more of those that
            # a caller resets at once, but also of a client that has the limit's number open. So it is above what one
            # needs. pygrpc-native has 1,024 and ends a connection that resets many; behind it all streams share one.
            options.append(("grpc.max_concurrent_streams", MOST_STREAMS))
            self._server = grpc.aio.server(options=options)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, _Registry(self._server))
        decisions_pb2_grpc.add_DecisionsServicer_to_server(decisions, _Registry(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (INFERENCE, DECISIONS, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        described = _Reflection(engines.gate, (*names, reflection.SERVICE_NAME))
        reflection_grpc.add_ServerReflectionServicer_to_server(described, self._server)

    async def start(self) -> None:
        """Opens the port. The events' service is healthy even without a model: the rules tier answers.

        Raises:
            ConfigError: where the port is taken, naming it, or others reach it who are not to call.
        """
        if self._engines.gate.mode == "local" and not is_loopback(self._engines.settings.grpc_host):
            raise ConfigError(f"gRPC on {self.address}: VIGIL_ACCESS=local lets only this machine call")
        try:
            if self._certificates:
                self._server.add_secure_port(self.address, self._certificates.credentials())
            else:
                self._server.add_insecure_port(self.address)
        except RuntimeError:
            raise ConfigError(f"gRPC port {self.address} is in use or not ours to take: set VIGIL_GRPC_PORT") from None
        await self.tell_health()
        await self._server.start()
        tls = " with TLS" if self._certificates else ""
        logger.info("gRPC listens on %s%s, served by %s", self.address, tls, self._by)

    async def tell_health(self) -> None:
        """Sets the health of the server, its services and, under its name, each model."""
        with_model = NOT_SERVING if self._engines.not_ready() else SERVING
        models = {
            name: SERVING if engine.model.session else NOT_SERVING for name, engine in self._engines.by_name.items()
        }
        for name, status in {**models, "": with_model, INFERENCE: with_model, DECISIONS: SERVING}.items():
            await self._health.set(name, status)

    async def stop(self, drain_s: float) -> None:
        """Not serving; streams answer what they have read, calls in flight get `drain_s` seconds to finish."""
        await self._health.enter_graceful_shutdown()
        self._streams.stop()
        await self._server.stop(drain_s)


class _Reflection(ReflectionServicer):  # type: ignore[misc]
    """Tells of the services what callers with the scope `read` ask."""

    def __init__(self, gate: Gate, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self._gate = gate

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> Any:  # noqa: N802
        """Answers each request of the stream, as long as its caller may ask."""
        try:
            async for answer in super().ServerReflectionInfo(self._admitted(requests, context), context):
                yield answer
        except VigilError as failure:
            await context.abort(grpc.StatusCode[failure.grpc_status], str(failure))

    async def _admitted(self, requests: Any, context: Any) -> Any:
        admitted(self._gate, "ServerReflectionInfo", context)
        first = True
        async for request in requests:
            if not first:
                admitted(self._gate, "ServerReflectionInfo", context)
            first = False
            yield request


class _Registry:
    """Where generated code registers a servicer: methods written here go on to the server, with `decoder`."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same methods come by name, too."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        safe = {
            name: each._replace(request_deserializer=decoder(each.request_deserializer))
            for name, each in handlers.items()
            if _is_ours(each)
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, safe),))
        self._server.add_registered_method_handlers(service, safe)


def _is_ours(handler: Any) -> bool:
    """Whether a method is written here. The others raise, for which a server logs a trace; unknown, it refuses them."""
    method = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return not method.__module__.endswith("_pb2_grpc")


def native(settings: Settings) -> bool:
    """Whether pygrpc-native serves, which offers the interface of `grpc.aio`.

    It refuses a message over the limit only once the whole of it, unpacked, is in memory, and can be told neither to
    look earlier nor to refuse compressed ones: 1 MB of gzip made it hold 2 GB. So it serves local callers only.

    Args:
        settings: of them `grpc_server`, `grpc_host`, and `grpc_connection_age_s` and `tls_cert`, which it cannot do.

    Raises:
        ConfigError: where it was asked for and is not installed, or cannot do what else was asked for.
    """
    installed = find_spec("pygrpc_native") is not None
    if settings.grpc_server == "native" and not installed:
        raise ConfigError("VIGIL_GRPC_SERVER=native: pygrpc-native is not installed; install it or set grpcio")
    unable = [
        name
        for name, value in (
            ("VIGIL_GRPC_CONNECTION_AGE_S", settings.grpc_connection_age_s),
            ("VIGIL_TLS_CERT", settings.tls_cert),
        )
        if value
    ]
    if settings.grpc_server == "native" and unable:
        raise ConfigError(f"VIGIL_GRPC_SERVER=native: pygrpc-native knows no {unable[0]}; set grpcio")
    near = is_loopback(settings.grpc_host)
    if settings.grpc_server == "native" and not near:
        raise ConfigError(
            f"VIGIL_GRPC_SERVER=native with VIGIL_GRPC_HOST={settings.grpc_host}: pygrpc-native does not bound "
            "a message in memory; set grpcio, or listen on 127.0.0.1 behind a proxy that does"
        )
    return settings.grpc_server == "native" or (settings.grpc_server == "auto" and installed and not unable and near)
