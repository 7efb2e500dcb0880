"""HTTP as bytes on a socket, for what no client library would send."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from types import TracebackType
from typing import Any, Self

from testbed.served import LOCALHOST

WAIT_S = 20.0
CHUNK = 1 << 16


class Closed(Exception):
    """The server closed the connection; what came before that is the message."""


class Wire:
    """A connection.

    Args:
        port: of the server on the loopback interface.
        trust: where it speaks TLS.
        buffer_bytes: of the socket; 0: the system's choice.
        source: the address it comes from.
    """

    def __init__(
        self, port: int, trust: ssl.SSLContext | None = None, buffer_bytes: int = 0, source: str = LOCALHOST
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(WAIT_S)
        if buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        self.socket.bind((source, 0))
        self.socket.connect((LOCALHOST, port))
        if trust:
            self.socket = trust.wrap_socket(self.socket, server_hostname=LOCALHOST)
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> Self:
        """Sends each part by itself."""
        for part in parts:
            self.socket.sendall(part)
        return self

    def answer(self) -> bytes:
        """The next answer whole, head and body, its date left out.

        Raises:
            Closed: where the server closes the connection before that.
        """
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, rest = self._read.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        assert length, head
        size = int(length[1])
        while len(rest) < size:
            self._more()
            rest = self._read.partition(b"\r\n\r\n")[2]
        self._read = rest[size:]
        return re.sub(rb"\r\ndate: [^\r]+", b"", head) + b"\r\n\r\n" + rest[:size]

    def closed(self) -> float:
        """Waits until the server closes the connection without another byte; the seconds that took."""
        started_s = time.monotonic()
        assert self._read + self.socket.recv(CHUNK) == b""
        return time.monotonic() - started_s

    def _more(self) -> None:
        read = self.socket.recv(CHUNK)
        if not read:
            raise Closed(self._read)
        self._read += read


def post(path: str, body: object, *headers: str, version: str = "1.1") -> bytes:
    """A request; `body` goes as it is where it is bytes, else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", "host: localhost", f"content-length: {len(raw)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def status(answer: bytes) -> int:
    """The status of an answer."""
    return int(answer.split(b" ", 2)[1])


def value(answer: bytes) -> Any:
    """The JSON of an answer."""
    return json.loads(answer.partition(b"\r\n\r\n")[2])
