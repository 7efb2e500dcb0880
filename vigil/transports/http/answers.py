"""What every request of the lane has around it: failures as answers, and a count."""

from __future__ import annotations

import logging

from vigil.errors import Overloaded, VigilError
from vigil.transports.http.message import Response, json

logger = logging.getLogger(__name__)


def failed(failure: BaseException, method: str, path: str) -> Response:
    """The answer to a request that failed; what is not a VigilError is logged, and its caller learns nothing of it."""
    if not isinstance(failure, VigilError):
        logger.error("%s %s failed", method, path, exc_info=failure)
        return json({"error": "internal error; the server's log has the details"}, 500)
    response = json({"error": str(failure)}, failure.http_status)
    if isinstance(failure, Overloaded):
        response.headers += ((b"retry-after", str(failure.retry_after_s).encode()),)
    return response


def wrong_method(got: str, wanted: str) -> Response:
    """The answer to a method that a route does not take."""
    response = json({"error": f"method: got {got}, wanted {wanted}"}, 405)
    response.headers += ((b"allow", wanted.encode()),)
    return response
