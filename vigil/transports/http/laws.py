"""What RFC 9112 asks of a request's head, beyond what the parser looks at."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vigil.transports.http.answers import CLOSE
from vigil.transports.http.message import HOST, Response, json

AUTHORITY = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
TRANSFER_ENCODING = b"transfer-encoding"


def broken(version: str, headers: Iterable[tuple[bytes, bytes]]) -> Response | None:
    """The answer to a request that breaks a law; None where it breaks none.

    Args:
        version: of HTTP, such as "1.1".
        headers: names in lower case.
    """
    if version not in ("1.0", "1.1"):
        return _refusal(505, f"HTTP version: got {version}, wanted 1.1")
    hosts = [value for name, value in headers if name == HOST]
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        return _refusal(400, f"host: got {len(hosts)} headers, wanted one")
    if hosts and not AUTHORITY.fullmatch(hosts[0]):
        return _refusal(400, "host: got what is no name and port")
    codings = [value.strip().lower() for name, value in headers if name == TRANSFER_ENCODING]
    if codings and version == "1.0":
        return _refusal(400, "transfer-encoding: HTTP 1.0 has none")
    if codings and codings != [b"chunked"]:
        return _refusal(501, "transfer-encoding: wanted chunked alone")
    return None


def _refusal(status: int, why: str) -> Response:
    response = json({"error": why}, status)
    response.headers += (CLOSE,)
    return response
