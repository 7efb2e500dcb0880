"""HTTP/2 by hand: frames that no client library would send."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import grpc
import psutil

from testbed.served import LOCALHOST, Served
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
MOST_BYTES = 16_384  # of a frame
SCORE = "/vigil.v1.Decisions/Score"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack("!IBBI", len(payload), kind, flags, stream)[1:] + payload


def bomb(unpacked_mib: int) -> bytes:
    """Zeros as gzip: a thousandth of what it becomes."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(unpacked_mib)) + packer.flush()


def header(name: bytes, value: bytes) -> bytes:
    """One header, literal and not indexed."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    if size < 127:
        return bytes((size,))
    rest, out = size - 127, b"\x7f"
    while rest >= 128:
        out += bytes((rest % 128 | 128,))
        rest //= 128
    return out + bytes((rest,))


def head(path: str = SCORE, extra: bytes = b"") -> bytes:
    """The header block of a gRPC call."""
    names = (b":method", b":scheme", b":path", b":authority", b"te", b"content-type")
    values = (b"POST", b"http", path.encode(), b"localhost", b"trailers", b"application/grpc")
    return b"".join(map(header, names, values)) + extra


def headers(stream: int, block: bytes, flags: int = END_HEADERS) -> bytes:
    """A HEADERS frame and, for what does not fit it, CONTINUATION frames."""
    if len(block) <= MOST_BYTES:
        return frame(HEADERS, flags, stream, block)
    parts = [block[i : i + MOST_BYTES] for i in range(0, len(block), MOST_BYTES)]
    kinds = [HEADERS] + [CONTINUATION] * (len(parts) - 1)
    ends = [flags & ~END_HEADERS] + [0] * (len(parts) - 2) + [END_HEADERS]
    return b"".join(frame(kind, end, stream, part) for kind, end, part in zip(kinds, ends, parts, strict=True))


class Connection:
    """A connection that has said hello. What the server sends is read and thrown away, unless `reads` is false.

    Args:
        port: of the server.
        reads: whether answers are taken.
        settings: as the payload of the first frame.
        for_s: how long it sends.
    """

    def __init__(self, port: int, reads: bool = True, settings: bytes = b"", for_s: float = 8.0) -> None:
        self.socket = socket.create_connection((LOCALHOST, port), timeout=for_s)
        self.sent, self.received = 0, bytearray()
        self._until_s = time.monotonic() + for_s
        self._reader = threading.Thread(target=self._read, daemon=True)
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))
        if reads:
            self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether the server still takes it, and the time is not over."""
        if time.monotonic() > self._until_s:
            return False
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        self.sent += len(data)
        return True

    def _read(self) -> None:
        while True:
            try:
                data = self.socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            if len(self.received) < 1 << 20:
                self.received += data

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """What has come so far, as kind, flags, stream and payload."""
        found, data = [], bytes(self.received)
        while len(data) >= 9 and len(data) >= (end := 9 + int.from_bytes(data[:3])):
            found.append((data[3], data[4], int.from_bytes(data[5:9]) & 0x7FFFFFFF, data[9:end]))
            data = data[end:]
        return found

    def agree(self) -> None:
        """Accepts the server's settings, as clients do; until then its windows and limits are the protocol's."""
        until_s = time.monotonic() + 5
        while not self.frames() and time.monotonic() < until_s:
            time.sleep(0.005)
        self.send(frame(SETTINGS, ACK, 0))

    def message(self, path: str, message: bytes, packed: bool = False) -> None:
        """Sends a call of one message, as fast as the server's windows allow.

        Args:
            path: of the method.
            message: as it goes on the wire.
            packed: whether it says that it is gzip.
        """
        extra = header(b"grpc-encoding", b"gzip") if packed else b""
        self.agree()
        self.send(headers(1, head(path, extra)))
        data, at = bytes((packed,)) + struct.pack("!I", len(message)) + message, 0
        while at < len(data):
            room = min(65_535 + self._opened(0), self._initial() + self._opened(1)) - at
            size = min(room, MOST_BYTES, len(data) - at)
            if size <= 0:
                time.sleep(0.005)
            elif not self.send(frame(DATA, 0, 1, data[at : at + size])):
                return
            if self.ended() or time.monotonic() > self._until_s:
                return
            at += max(size, 0)
        self.send(frame(DATA, END_STREAM, 1))

    def ended(self) -> bool:
        """Whether the first call is answered or reset, or the connection given up."""
        return any(
            kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM)
            for kind, flags, _, _ in self.frames()
        )

    def _opened(self, stream: int) -> int:
        return sum(int.from_bytes(got) for kind, _, at, got in self.frames() if (kind, at) == (WINDOW_UPDATE, stream))

    def _initial(self) -> int:
        values = [
            int.from_bytes(got[i + 2 : i + 6])
            for kind, _, _, got in self.frames()
            if kind == SETTINGS
            for i in range(0, len(got), 6)
            if got[i : i + 2] == b"\0\4"
        ]
        return values[-1] if values else 65_535


class Watch:
    """What an attack costs: the server's memory and the longest wait of a caller who asks every 50 ms.

    `grown_bytes` is the peak over the beginning, `held_bytes` what is left at the end.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        below = psutil.Process(served.process.pid).children(recursive=True)
        self._process = max(below, key=lambda each: each.memory_info().rss)
        self._start = self._rss()
        self.grown_bytes, self.waits_s, self.failures = 0, [0.0], list[str]()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._look, self._ask)]

    @property
    def held_bytes(self) -> int:
        return self._rss() - self._start

    def _rss(self) -> int:
        return int(self._process.memory_info().rss)

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.grown_bytes = max(self.grown_bytes, self.held_bytes)

    def _ask(self) -> None:
        request = pb.ScoreRequest(domain="payments")
        request.events.add(
            event_id="by", ts_ms=1_538_308_800_000, entities={"customer": "C1", "terminal": "T1"}, numbers={"amount": 3}
        )
        with grpc.insecure_channel(self._served.grpc_address) as channel:
            score = decisions_pb2_grpc.DecisionsStub(channel).Score
            while not self._over.wait(0.05):
                began_s = time.monotonic()
                try:
                    score(request, timeout=30)
                except grpc.RpcError as failure:
                    self.failures.append(f"{failure.code()} {failure.details()}")
                self.waits_s.append(time.monotonic() - began_s)


@contextmanager
def watched(served: Served, after_s: float = 1.0) -> Iterator[Watch]:
    """Watches the block and what the server does for `after_s` more."""
    watch = Watch(served)
    for each in watch._threads:
        each.start()
    time.sleep(0.3)
    try:
        yield watch
        time.sleep(after_s)
    finally:
        watch._over.set()
        for each in watch._threads:
            each.join(35)
