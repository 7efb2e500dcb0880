"""A request and a response of the lane, as its handlers see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vigil.errors import InvalidInput, shown

TIMEOUT = b"x-request-timeout-ms"
ENCODING = b"content-encoding"
HEADER_LENGTH = b"inference-header-content-length"
# The headers that mean something to a handler.
NOTED = frozenset((TIMEOUT, ENCODING, HEADER_LENGTH))
TIMEOUT_DIGITS = 8
_encode = msgspec.json.Encoder().encode


class Request(msgspec.Struct, gc=False):
    """A request whose body has come.

    Args:
        path: as parameters of the route, by name.
        query: the query string.
        headers: those in `NOTED` that came, names in lower case; of one that came twice, the first.
        body: the whole body.
        arrived_s: moment of `time.perf_counter` at which the head had come.
    """

    path: dict[str, str]
    query: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    arrived_s: float

    def deadline_s(self) -> float | None:
        """The moment of `time.perf_counter` at which the caller gives up, or None where it does not say.

        Raises:
            InvalidInput: for a header that is not a number of milliseconds.
        """
        value = self.headers.get(TIMEOUT)
        if not value:
            return None
        if not value.isdigit() or len(value) > TIMEOUT_DIGITS:
            came = shown(value.decode("latin-1"))
            raise InvalidInput(f"{TIMEOUT.decode()}: got {came}, wanted milliseconds, 0 to {10**TIMEOUT_DIGITS - 1}")
        return self.arrived_s + int(value) / 1000

    def flag(self, name: str) -> bool:
        """A query parameter that is `true` or `false` (the default); there may be no other.

        Raises:
            InvalidInput: naming the parameter, what came and what was wanted.
        """
        if not self.query:
            return False
        value = self.text(name)
        if value not in ("true", "false"):
            raise InvalidInput(f"query parameter {name}: got {shown(value)}, wanted true or false")
        return value == "true"

    def text(self, name: str) -> str:
        """A query parameter, "" by default; there may be no other.

        Raises:
            InvalidInput: naming the one that came.
        """
        if not self.query:
            return ""
        key, _, value = self.query.decode("latin-1").partition("=")
        if key != name:
            raise InvalidInput(f"query parameter {shown(key)}: no such parameter; there is {name}")
        return value


def noted(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers, names in lower case, that a :class:`Request` holds."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in NOTED:
            found.setdefault(name, value)
    return found


class Response(msgspec.Struct, gc=False):
    """An answer: JSON unless `headers` say otherwise."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


def json(value: Any, status: int = 200) -> Response:
    """`value` as a JSON answer."""
    return Response(_encode(value), status)
