"""What every call has around it: who may call, errors as gRPC statuses, and a count."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

import grpc

from vigil.access.gate import Gate
from vigil.access.identity import ADMIN, ANYONE, AUDITED, PUBLIC, Identity
from vigil.errors import Forbidden, InvalidInput, VigilError
from vigil.observe import calls
from vigil.transports.tls import grpc_peer

logger = logging.getLogger(__name__)
GRPC = calls.Calls("grpc")

CANCELLED = "CANCELLED"  # the caller has gone, or its deadline has passed
Method = Callable[[Any, Any, Any], Awaitable[Any]]
NEEDS = {
    "Score": "score",
    "ScoreStream": "score",
    "Feedback": "feedback",
    "ServerLive": PUBLIC,
    "ServerReady": PUBLIC,
    "ServerMetadata": "infer",
    "ModelReady": "infer",
    "ModelMetadata": "infer",
    "ModelConfig": "infer",
    "ModelStatistics": "metrics",
    "ModelInfer": "infer",
    "ModelStreamInfer": "infer",
    "RepositoryIndex": "admin",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
    "ServerReflectionInfo": "read",
}
"""The scope that callers of each method need; of a service that is not here, such as health, they need none."""


CREDENTIALS = {"authorization": b"authorization", "x-api-key": b"x-api-key"}


def admit(gate: Gate, name: str, metadata: Any, peer: str, subjects: Sequence[str] = ()) -> Identity:
    """Who calls the method `name`, where they may.

    Args:
        gate: that every call passes.
        name: of the method.
        metadata: pairs that came with the call; None for none.
        peer: as gRPC names the caller.
        subjects: names in the certificate that the caller has shown.

    Raises:
        Unauthenticated, Forbidden, RateLimited: as `Gate.admit`.
    """
    if not gate.knows:
        return ANYONE
    given = {CREDENTIALS[key]: value.encode() for key, value in metadata or () if key in CREDENTIALS}
    return gate.admit(given, NEEDS[name], calls.address_of(peer), subjects)


def answers(method: Method) -> Method:
    """Wraps a servicer's method: a VigilError becomes its status with its message, others INTERNAL without."""
    name = method.__name__

    @functools.wraps(method)
    async def call(servicer: Any, request: Any, context: Any) -> Any:
        report = calls.grpc_report(servicer.full_name, name, context, perf_counter()) if calls.on else None
        if report:
            report.enter()
        counted = calls.Call(GRPC, report)
        code, response, identity = CANCELLED, None, None
        try:
            identity = admitted(servicer.gate, name, context)
            request = checked(request)
            charge(servicer.gate, identity, request)
            if report:
                report.bytes_in = request.ByteSize()
            response = await method(servicer, request, context)
            code = "OK"
            return response
        except Exception as failure:
            code, message = status_of(failure, name)
        finally:
            counted.end(name, code, response.ByteSize() if report and response is not None else 0)
            if identity and NEEDS[name] in AUDITED:
                target = getattr(request, "model_name", "") or getattr(request, "domain", "")
                servicer.gate.record(identity, name, calls.address_of(context.peer()), target, code)
        return await context.abort(grpc.StatusCode[code], message)

    return call


def admitted(gate: Gate, name: str, context: Any) -> Identity:
    """As `admit`, from the context of the call."""
    if gate.admin_port and NEEDS[name] == ADMIN:
        raise Forbidden(f"{name}: over HTTP on 127.0.0.1:{gate.admin_port} (VIGIL_ADMIN_PORT) alone")
    if not gate.knows:
        return ANYONE
    subjects = grpc_peer(context) if gate.knows_certificates else ()
    return admit(gate, name, context.invocation_metadata(), context.peer(), subjects)


def charge(gate: Gate, identity: Identity, request: Any) -> None:
    """Counts the events, labels or rows of a call, beyond the first, against its caller's limit.

    Raises:
        RateLimited: as `Gate.charge`.
    """
    if gate.knows and (more := _count(request) - 1) > 0:
        gate.charge(identity, more)


def _count(request: Any) -> int:
    """Events, labels or rows of a message: no more rows than it has values, whatever shape it claims."""
    if inputs := getattr(request, "inputs", None):
        tensor = inputs[0]
        values = len(tensor.contents.fp32_contents) or sum(map(len, request.raw_input_contents)) // 4
        return min(tensor.shape[0], values) if tensor.shape else 1
    return len(getattr(request, "events", ()) or getattr(request, "labels", ()))


def decoder(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """As `decode`, but what cannot be decoded gives the failure: raised, servers answer it as UNKNOWN, with a trace."""

    def safe(message: bytes) -> Any:
        try:
            return decode(message)
        except Exception:
            return InvalidInput(f"message: got {len(message)} bytes that are not the call's protobuf message")

    return safe


def checked(request: Any) -> Any:
    """The request as it came from `decoder`.

    Raises:
        InvalidInput: where it could not be decoded.
    """
    if isinstance(request, InvalidInput):
        raise request
    return request


def aborts(method: Method) -> Method:
    """Wraps the method of a stream, which answers and counts its messages itself: a VigilError ends the call."""

    name = method.__name__

    @functools.wraps(method)
    async def call(servicer: Any, requests: Any, context: Any) -> None:
        report = calls.grpc_report(servicer.full_name, name, context, perf_counter()) if calls.on else None
        code, message = CANCELLED, ""
        if report:
            report.enter()
        try:
            admitted(servicer.gate, name, context)
            await method(servicer, requests, context)
            code = CANCELLED if context.cancelled() else "OK"  # its messages may end before it hears of that
        except VigilError as failure:
            code, message = failure.grpc_status, str(failure)
        except Exception:
            code = "UNKNOWN"
            raise
        finally:
            if report:
                report.end(name, code, 0)
        if code not in ("OK", CANCELLED):
            await context.abort(grpc.StatusCode[code], message)

    return call


def status_of(failure: Exception, name: str) -> tuple[str, str]:
    """Name of the gRPC status and the message for a call of the method `name` that failed."""
    if isinstance(failure, VigilError):
        return failure.grpc_status, str(failure)
    logger.error("gRPC call %s failed", name, exc_info=failure)
    return "INTERNAL", "internal error; the server's log has the details"


def deadline_s(context: Any) -> float | None:
    """When the caller of a call gives up, of `time.perf_counter`; None: never."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else perf_counter() + remaining_s
