"""What is sent: valid calls, damaged in every way that comes to mind. The same seed makes the same cases."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.serving.calls import payment, tensor
from vigil import domains
from vigil.transports.proto import decisions_pb2

CORPUS = Path(__file__).with_name("corpus")
WIDTH = len(domains.load("payments").features)
ROW = [[float(i) for i in range(WIDTH)]]
SCORE, FEEDBACK, INFER = "/v1/payments/score", "/v1/payments/feedback", "/v2/models/payments/infer"
UNLOAD, INDEX = "/v2/repository/models/payments/unload", "/v2/repository/index"
BODIES: dict[str, object] = {
    SCORE: payment("a"),
    FEEDBACK: {"event_id": "a", "label": 1},
    INFER: tensor(ROW),
    INDEX: {"ready": True},
    UNLOAD: {},
    "/v1/decisions/a": None,
    "/predict": {"features": ROW},
    "/metrics": None,
    "/readyz": None,
    "/": None,
}
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\x00", b"\xff", b" ", b"\t", b":", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1", b"1e999",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n", b"transfer-encoding: identity\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: +5\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Upgrade: websocket\r\n", b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: localhost\r\n", b"Host: evil\r\n", b"Origin: null\r\n", b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: br\r\n",
    b"Inference-Header-Content-Length: 99\r\n", b"X-Request-Timeout-Ms: 0\r\n", b"traceparent: 00-0-0-0\r\n",
    b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n", b"POST /v2/repository/models/payments/unload HTTP/1.1\r\n",
    b"HTTP/1.1", b"HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"%00", b"%2e%2e/", b"..", b"?features=true", b"#",
    b"X-API-Key: vigil_00000000_x\r\n", b"Authorization: Bearer \r\n", b"Authorization: Bearer a.b.c\r\n",
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1, 1 << 63, -(1 << 63), 1 << 64, 10**400, 0.0, -0.0, 1e-400, 1e308, "", " ", "\x00",
    "NaN", "1e5",
    "a" * 129, "\ud7ff", "😀" * 40, "2018-09-30T12:00:00Z", "2018-09-30", "0000-00-00T00:00:00Z",
    "9999-12-31T23:59:59+99:99",
    [], {}, [[]], [None], {"a": 1}, [1] * 5, {"event_id": "a"},
]  # fmt: skip


def request(path: str, key: bytes) -> bytes:
    """A valid call; `key`: a header line with an API key, or nothing."""
    body = BODIES[path]
    raw = b"" if body is None else json.dumps(body).encode()
    method = b"GET" if body is None else b"POST"
    head = b"%b %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Type: application/json\r\n" % (method, path.encode(), key)
    return head + (b"" if body is None else b"Content-Length: %d\r\n" % len(raw)) + b"\r\n" + raw


def damaged(made: random.Random, raw: bytes, times: int) -> bytes:
    """Bytes with some cut, doubled, changed, moved or put in."""
    for _ in range(times):
        at, to = sorted(made.randrange(len(raw) + 1) for _ in range(2))
        match made.randrange(7):
            case 0:
                raw = raw[:at] + raw[min(to, at + made.randrange(1, 9)) :]
            case 1:
                raw = raw[:at] + raw[at : min(to, at + 40)] + raw[at:]
            case 2 if raw:
                at = made.randrange(len(raw))
                raw = raw[:at] + bytes([raw[at] ^ 1 << made.randrange(8)]) + raw[at + 1 :]
            case 3:
                raw = raw[:at]
            case 4:
                raw = raw + raw[at:to]
            case _:
                raw = raw[:at] + made.choice(TOKENS) + raw[at:]
        raw = raw[: 1 << 16]
    return raw


def requests(seed: int, count: int, key: bytes) -> Iterator[bytes]:
    """Damaged requests over HTTP."""
    made = random.Random(f"http/{seed}")
    for _ in range(count):
        raw = b"".join(request(made.choice([*BODIES]), key) for _ in range(made.choice((1, 1, 1, 2))))
        if made.random() < 0.3:  # a token at the start of a line is read as a header
            lines = raw.split(b"\r\n")
            lines.insert(made.randrange(1, 4), made.choice(TOKENS).removesuffix(b"\r\n"))
            raw = b"\r\n".join(lines)
        yield damaged(made, raw, made.choice((0, 1, 1, 2, 3, 6)))


def bodies(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Paths, and JSON that is wrong in a field or in its text."""
    made = random.Random(f"json/{seed}")
    for _ in range(count):
        path = made.choice((SCORE, SCORE, FEEDBACK, INFER, INDEX))
        value = json.loads(json.dumps(BODIES[path]))
        _spoil(made, value)
        if made.random() < 0.3:
            value = [value] * made.randrange(4)
        raw = json.dumps(value).encode()
        yield path, damaged(made, raw, 1) if made.random() < 0.4 else raw


def _spoil(made: random.Random, value: dict[str, object]) -> None:
    """Puts odd things into an object, somewhere."""
    place: object = value
    while True:
        if isinstance(place, list) and place:
            key: int | str = made.randrange(len(place))
        elif isinstance(place, dict) and place:
            key = made.choice([*place])
        else:
            return
        inner = place[key]  # type: ignore[index]
        if isinstance(inner, dict | list) and inner and made.random() < 0.7:
            place = inner
            continue
        match made.randrange(3):
            case 0:
                del place[key]  # type: ignore[arg-type]
            case 1 if isinstance(place, dict):
                place[made.choice(("x", "", "event_id", "ts", "__proto__"))] = made.choice(VALUES)
            case _:
                place[key] = made.choice(VALUES)  # type: ignore[index]
        return


def tensors(seed: int, count: int) -> Iterator[tuple[bytes, str]]:
    """Bodies of the binary tensor extension, and the value of their length header."""
    made = random.Random(f"tensor/{seed}")
    for _ in range(count):
        rows = made.randrange(4)
        raw = struct.pack(f"<{rows * WIDTH}f", *(made.choice((0.0, 1.5, float("nan"), float("inf"))),) * (rows * WIDTH))
        shape = [made.choice((rows, rows, -1, 1 << 40)), made.choice((WIDTH, WIDTH, 0, WIDTH + 1))]
        size = made.choice((len(raw), len(raw), 0, -1, len(raw) + 1, 1 << 62))
        given = {"name": "features", "datatype": made.choice(("FP32", "FP32", "INT8", "BYTES", "")), "shape": shape}
        head = json.dumps({"inputs": [{**given, "parameters": {"binary_data_size": size}}]}).encode()
        length = made.choice((str(len(head)), str(len(head)), "0", "-1", "99999999999999999999", "x"))
        yield damaged(made, head + raw, made.choice((0, 0, 1))), length


def messages(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """gRPC methods, and bytes that nearly are their messages."""
    made = random.Random(f"grpc/{seed}")
    event = decisions_pb2.Event(event_id="a", ts_ms=1_538_308_800_000, entities={"customer": "c", "terminal": "t"})
    event.numbers["amount"] = 31.5
    valid = {
        "/vigil.v1.Decisions/Score": decisions_pb2.ScoreRequest(
            domain="payments", events=[event] * 3
        ).SerializeToString(),
        "/vigil.v1.Decisions/Feedback": decisions_pb2.FeedbackRequest(
            domain="payments", labels=[decisions_pb2.Label(event_id="a", label=1)]
        ).SerializeToString(),
        "/inference.GRPCInferenceService/ModelInfer": bytes.fromhex("0a087061796d656e7473") + bytes(40),
        "/inference.GRPCInferenceService/RepositoryModelUnload": bytes.fromhex("12087061796d656e7473"),
        "/inference.GRPCInferenceService/RepositoryIndex": b"",
        "/vigil.v1.Decisions/Nothing": b"",
    }
    for _ in range(count):
        method = made.choice([*valid])
        yield method, damaged(made, valid[method], made.choice((0, 1, 2, 5)))


def frames(seed: int, count: int) -> Iterator[bytes]:
    """What a client of HTTP/2 would not send: the preface, then frames of any type, flags, stream and length."""
    made = random.Random(f"frames/{seed}")
    for _ in range(count):
        raw = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
        for _ in range(made.randrange(1, 12)):
            payload = made.randbytes(made.choice((0, 1, 4, 5, 6, 8, 40)))
            length = made.choice((len(payload), len(payload), len(payload), 0, 1 << 14, (1 << 24) - 1))
            kind, flags, stream = made.randrange(12), made.randrange(256), made.choice((0, 1, 3, 2, (1 << 31) - 1))
            raw += struct.pack(">I", length)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload
        yield damaged(made, raw, made.choice((0, 0, 1)))
