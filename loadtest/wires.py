"""Requests as bytes and answers out of bytes, for a load generator that has no time for a client library."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Protocol

from loadtest.outcome import OK

FAILED = 500


class Wire(Protocol):
    """One connection's side of a protocol, with one request under way at a time."""

    def opening(self) -> bytes:
        """What is sent first."""

    def request(self) -> bytes:
        """The next request."""

    def take(self, data: bytes) -> tuple[list[int], bytes]:
        """The HTTP statuses of answers that `data` completes, and what must be sent back at once."""


class Http1:
    """The same POST over and over; answers must have a content-length."""

    def __init__(self, authority: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nhost: {authority}\r\n{lines}content-length: {len(body)}\r\n\r\n"
        self._request, self._held = head.encode() + body, b""

    def opening(self) -> bytes:
        return b""

    def request(self) -> bytes:
        return self._request

    def take(self, data: bytes) -> tuple[list[int], bytes]:
        held, statuses = self._held + data, []
        while (end := held.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: *(\d+)", held[:end], re.IGNORECASE)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(held) < total:
                break
            statuses.append(int(held[9:12]))
            held = held[total:]
        self._held = held
        return statuses, b""


DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class GrpcUnary:
    """The same unary call over and over: HTTP/2 with prior knowledge, header fields without indexing (RFC 7541).

    An answer without a message, as an error is in gRPC, has status 500.
    """

    def __init__(self, authority: str, method: str, message: bytes) -> None:
        def text(value: str) -> bytes:
            return bytes([len(value)]) + value.encode()

        # POST and http are in the static table; path, authority and content-type have their names there.
        self._headers = b"\x83\x86\x04" + text(method) + b"\x01" + text(authority)
        self._headers += b"\x0f\x10" + text("application/grpc") + b"\x00" + text("te") + text("trailers")
        self._body = struct.pack(">BI", 0, len(message)) + message
        self._stream, self._held, self._answered = -1, b"", False

    def opening(self) -> bytes:
        window = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"") + window

    def request(self) -> bytes:
        self._stream += 2
        headers = frame(HEADERS, END_HEADERS, self._stream, self._headers)
        return headers + frame(DATA, END_STREAM, self._stream, self._body)

    def take(self, data: bytes) -> tuple[list[int], bytes]:
        held, statuses, back = self._held + data, [], b""
        while len(held) >= 9 and len(held) >= (total := 9 + int.from_bytes(held[:3], "big")):
            kind, flags = held[3], held[4]
            if kind == DATA:
                self._answered = True
            elif kind == HEADERS and flags & END_STREAM:
                statuses.append(OK if self._answered else FAILED)
                self._answered = False
            elif kind == SETTINGS and not flags & ACK:
                back += frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                back += frame(PING, ACK, 0, held[9:total])
            held = held[total:]
        self._held = held
        return statuses, back
