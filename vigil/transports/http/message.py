"""A request and a response of the lane, as its handlers see them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vigil.access.identity import ANYONE, Identity
from vigil.errors import InvalidInput, Overloaded, TooLarge, Unsupported, quote

TIMEOUT = b"x-request-timeout-ms"
ENCODING = b"content-encoding"
LARGE_BYTES = 64 << 10  # of a body, beyond which it is decoded in pieces or in a thread: others go on meanwhile
HEADER_LENGTH = b"inference-header-content-length"
HOST, ORIGIN = b"host", b"origin"
PEER = "vigil.peer"  # where an ASGI scope's state has the names in the caller's certificate
# The headers that mean something here.
NOTED = frozenset((TIMEOUT, ENCODING, HEADER_LENGTH, HOST, ORIGIN, b"authorization", b"x-api-key"))
TIMEOUT_DIGITS = 8
_encode = msgspec.json.Encoder().encode


class Request(msgspec.Struct, gc=False):
    """A request whose body has come.

    Args:
        path: as parameters of the route, by name.
        query: the query string.
        headers: those in `NOTED` that came, names in lower case; of one that came twice, the first.
        body: the whole body, unpacked.
        arrived_s: moment of `time.perf_counter` at which the head had come.
        identity: who asks.
    """

    path: dict[str, str]
    query: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    arrived_s: float
    identity: Identity = ANYONE

    def deadline_s(self) -> float | None:
        """The moment of `time.perf_counter` at which the caller gives up, or None where it does not say.

        Raises:
            InvalidInput: for a header that is not a number of milliseconds.
        """
        value = self.headers.get(TIMEOUT)
        if not value:
            return None
        if not value.isdigit() or len(value) > TIMEOUT_DIGITS:
            came = quote(value.decode("latin-1"))
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
            raise InvalidInput(f"query parameter {name}: got {quote(value)}, wanted true or false")
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
            raise InvalidInput(f"query parameter {quote(key)}: no such parameter; there is {name}")
        return value


def pick_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers, names in lower case, that a `Request` holds."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in NOTED:
            found.setdefault(name, value)
    return found


def check_room(size: float, max_bytes: int) -> None:
    """Raises Overloaded where all bodies and answers together would be `size` bytes."""
    if size > max_bytes:
        raise Overloaded(f"bodies: {max_bytes} bytes of them and of answers already wait; come back")


def unpack(headers: Mapping[bytes, bytes], body: bytes, max_bytes: int) -> bytes:
    """A body as it was before its `Content-Encoding`, unpacked no further than to its limit.

    Raises:
        Unsupported: for another encoding than gzip, deflate and identity.
        InvalidInput: for what is not packed as it says, whole and alone.
        TooLarge: beyond the limit.
    """
    encoding = headers.get(ENCODING, b"").strip().lower()
    if not encoding or encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Unsupported(f"content-encoding: got {quote(encoding.decode('latin-1'))}, wanted gzip or deflate")
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # tells gzip and zlib apart by their first bytes
    try:
        unpacked = stream.decompress(body, max_bytes + 1)
    except zlib.error as failure:
        raise InvalidInput(f"body: {failure}; wanted {encoding.decode()}") from None
    if len(unpacked) > max_bytes:
        raise TooLarge(f"body: got more than {max_bytes} bytes unpacked, wanted at most {max_bytes}")
    if not stream.eof:
        raise InvalidInput(f"body: got an end amid compressed data, wanted the whole of it as {encoding.decode()}")
    if stream.unused_data:
        raise InvalidInput(f"body: got {len(stream.unused_data)} bytes behind the compressed data, wanted none")
    return unpacked


class Response(msgspec.Struct, gc=False):
    """An answer: JSON unless `headers` say otherwise."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


def json(value: Any, status: int = 200) -> Response:
    """`value` as a JSON answer."""
    return Response(_encode(value), status)
