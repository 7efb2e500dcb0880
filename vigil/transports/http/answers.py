"""What every request of the lane has around it: failures as answers, and how answers are sent."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vigil.access import limits
from vigil.errors import Overloaded, RateLimited, Unauthenticated, VigilError, cut
from vigil.transports.http.message import Response, json

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger(__name__)
CLOSE = (b"connection", b"close")


def error_response(failure: BaseException, method: str, path: str) -> Response:
    """The answer to a request that failed; what is not a VigilError is logged, and its caller learns nothing of it."""
    if not isinstance(failure, VigilError):
        logger.error("%s %s failed", method, path, exc_info=failure)
        return json({"error": "internal error; the server's log has the details"}, 500)
    response = json({"error": str(failure)}, failure.http_status)
    if isinstance(failure, Overloaded):
        response.headers += ((b"retry-after", str(failure.retry_after_s).encode()),)
    elif isinstance(failure, RateLimited):
        response.headers += limits.headers(failure)
    elif isinstance(failure, Unauthenticated):
        response.headers += ((b"www-authenticate", b"Bearer"),)
    return response


def wrong_method(got: str, wanted: str) -> Response:
    """The answer to a method that a route does not take."""
    response = json({"error": f"method: got {cut(got)}, wanted {wanted}"}, 405)
    response.headers += ((b"allow", wanted.encode()),)
    return response


async def send_response(send: Send, response: Response) -> None:
    """Answers over ASGI."""
    headers = (*response.headers, (b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
