"""What every call has around it: errors as gRPC statuses, and a count."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc

from vigil import metrics, telemetry
from vigil.errors import InvalidInput, VigilError

logger = logging.getLogger(__name__)
in_flight = metrics.IN_FLIGHT.labels("grpc")

CANCELLED = "CANCELLED"  # the caller has gone, or its deadline has passed
Method = Callable[[Any, Any, Any], Awaitable[Any]]


def answers(method: Method) -> Method:
    """Wraps a servicer's method: a VigilError becomes its status with its message, others INTERNAL without."""
    name = method.__name__

    @functools.wraps(method)
    async def call(servicer: Any, request: Any, context: Any) -> Any:
        started_s = perf_counter()
        seen = telemetry.grpc_call(servicer.full_name, name, context, started_s) if telemetry.on else None
        if seen:
            seen.enter()
        code, response = CANCELLED, None
        in_flight.value += 1
        try:
            request = decoded(request)
            if seen:
                seen.bytes_in = request.ByteSize()
            response = await method(servicer, request, context)
            code = "OK"
            return response
        except Exception as failure:
            code, message = status_of(failure, name)
        finally:
            in_flight.value -= 1
            metrics.answered("grpc", name, code, started_s)
            if seen:
                seen.answered(name, code, 0 if response is None else response.ByteSize())
        return await context.abort(grpc.StatusCode[code], message)

    return call


def decoder(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """As `decode`, but what cannot be decoded gives the failure: raised, servers answer it as UNKNOWN, with a trace."""

    def safe(message: bytes) -> Any:
        try:
            return decode(message)
        except Exception:
            return InvalidInput(f"message: got {len(message)} bytes that are not the call's protobuf message")

    return safe


def decoded(request: Any) -> Any:
    """The request as it came from :func:`decoder`.

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
        seen = telemetry.grpc_call(servicer.full_name, name, context, perf_counter()) if telemetry.on else None
        code, message = CANCELLED, ""
        if seen:
            seen.enter()
        try:
            await method(servicer, requests, context)
            code = "OK"
        except VigilError as failure:
            code, message = failure.grpc_status, str(failure)
        except Exception:
            code = "UNKNOWN"
            raise
        finally:
            if seen:
                seen.answered(name, code, 0)
        if code != "OK":
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
