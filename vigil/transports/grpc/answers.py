"""What every unary call has around it: errors as gRPC statuses, and a count."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc

from vigil import metrics
from vigil.errors import VigilError

logger = logging.getLogger(__name__)

Method = Callable[[Any, Any, Any], Awaitable[Any]]


def answers(method: Method) -> Method:
    """Wraps a servicer's method: a VigilError becomes its status with its message, others INTERNAL without."""
    name = method.__name__

    @functools.wraps(method)
    async def call(servicer: Any, request: Any, context: Any) -> Any:
        started_s = perf_counter()
        try:
            response = await method(servicer, request, context)
            metrics.answered("grpc", name, "OK", started_s)
            return response
        except VigilError as failure:
            code, message = failure.grpc_status, str(failure)
        except Exception:
            logger.exception("gRPC call %s failed", name)
            code, message = "INTERNAL", "internal error; the server's log has the details"
        metrics.answered("grpc", name, code, started_s)
        return await context.abort(grpc.StatusCode[code], message)

    return call
