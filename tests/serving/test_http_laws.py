"""Laws of HTTP that hold with the hot lane and without, and that both give the same bytes."""

from __future__ import annotations

import json
import re
import signal
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from testbed import tiny_model
from testbed.served import LOCALHOST, Served
from tests.serving.calls import call, payment, tensor
from tests.serving.wire import Closed, Wire, post, status, value
from vigil import domains

SCORE, INFER = "/v1/payments/score", "/v2/models/payments/infer"
MAX_BODY_BYTES = 200_000
STALL_S = 2.5
WIDTH = len(domains.load("payments").features)
ROW = [[float(i) for i in range(WIDTH)]]
CLOSE = "connection: close"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a model in the store."""
    folder = tmp_path_factory.mktemp("laws")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bento"))
        tiny_model.store(folder, domains.load("payments"))
    return {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_GRPC_PORT": "0",
        "VIGIL_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "VIGIL_STALL_S": str(STALL_S),
    }


@pytest.fixture(scope="module")
def lanes(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """The service with the hot lane ("protocol") and without ("asgi")."""
    folder = tmp_path_factory.mktemp("lanes")

    def lane(name: str) -> Served:
        own = {"VIGIL_HTTP_LANE": name, "VIGIL_STATE_DIR": str(folder / name)}
        return Served(".", folder / f"{name}.log", environment | own, arguments=("--timeout-keep-alive", "2"))

    with lane("protocol") as hot, lane("asgi") as plain:
        yield {"protocol": hot, "asgi": plain}


@pytest.fixture(params=["protocol", "asgi"])
def port(request: pytest.FixtureRequest, lanes: dict[str, Served]) -> int:
    return lanes[request.param].port


def binary(rows: list[list[float]]) -> tuple[bytes, str]:
    """An infer request with binary tensors both ways, and its header."""
    raw = b"".join(memoryview(bytearray(4)) for _ in rows[0]) * len(rows)
    asked = {
        "inputs": [
            {
                "name": "features",
                "datatype": "FP32",
                "shape": [len(rows), WIDTH],
                "parameters": {"binary_data_size": len(raw)},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(asked).encode()
    return head + raw, f"Inference-Header-Content-Length: {len(head)}"


def chunked(body: bytes) -> bytes:
    """A request in chunks of 40 bytes."""
    parts = [body[i : i + 40] for i in range(0, len(body), 40)]
    head = f"POST {SCORE} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def alike(event_id: str, **changed: object) -> dict[str, object]:
    """An event of entities that no other test touches: both lanes know as much of them."""
    return payment(event_id, customer="alike", terminal="alike", **changed)


CASES: dict[str, bytes] = {
    "an event": post(SCORE, alike("same-1")),
    "an array": post(SCORE, [alike("same-2"), alike("same-3", amount=2000)]),
    "features": post(SCORE + "?features=true", alike("same-4")),
    "query unknown": post(SCORE + "?feature=true", alike("same-5")),
    "query empty": post(SCORE + "?", alike("same-5")),
    "fragment": post(SCORE + "?features=true#x", alike("same-6")),
    "percent-encoded": post("/v1/payments/%73core", alike("same-7")),
    "absolute": post("http://vigil" + SCORE, alike("same-8")),
    "no JSON": post(SCORE, b"{"),
    "no body": post(SCORE, b""),
    "an empty array": post(SCORE, []),
    "a bad value": post(SCORE, alike("same-9", amount=-1)),
    "one bad of two": post(SCORE, [alike("same-10"), alike("same-11", amount=-1)]),
    "late already": post(SCORE, alike("same-12"), "x-request-timeout-ms: 0"),
    "bad deadline": post(SCORE, alike("same-12"), "x-request-timeout-ms: soon"),
    "no such domain": post("/v1/nothing/score", alike("same-13")),
    "another method": f"GET {SCORE} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
    "a method with a body": post(SCORE, alike("same-14")).replace(b"POST", b"PUT", 1),
    "rows": post(INFER, tensor(ROW * 3)),
    "rows with an id": post(INFER, tensor(ROW) | {"id": "a"}),
    "nested rows": post(INFER, tensor(ROW, data=ROW)),
    "rows not finite": post(INFER, tensor(ROW, data=[1e39, *ROW[0][1:]])),
    "a wrong shape": post(INFER, tensor(ROW, shape=[1, 2])),
    "a version": post("/v2/models/payments/versions/none/infer", tensor(ROW)),
    "late rows": post(INFER, tensor(ROW), "X-Request-Timeout-MS: 0"),
    "binary rows": post(INFER, *binary(ROW * 5)),
    "in chunks": chunked(json.dumps(alike("same-15")).encode()),
    "capitals": post(SCORE, alike("same-16"), "CONTENT-TYPE: application/json", "ACCEPT: */*"),
    "HTTP/1.0": post(SCORE, alike("same-17"), version="1.0"),
    "HTTP/1.0, kept": post(SCORE, alike("same-18"), "connection: keep-alive", version="1.0"),
    "close": post(SCORE, alike("same-19"), CLOSE),
    "close after a failure": post(SCORE, b"{", CLOSE),
    "an upgrade": post(SCORE, alike("same-20"), "connection: upgrade", "upgrade: h2c"),
    "no HTTP": b"\x16\x03\x01 what?\r\n\r\n",
    "too long": post(SCORE, b"", CLOSE).replace(b"length: 0", b"length: %d" % (MAX_BODY_BYTES + 1)),
    "two lengths": post(SCORE, alike("same-21"), "content-length: 7"),
    "a length that is none": post(SCORE, b"", "content-length: x"),
}  # fmt: skip


def answers(port: int, request: bytes) -> tuple[bytes, bytes]:
    """The answer to a request, and what a valid one on the same connection then gets."""
    with Wire(port) as wire:
        first = re.sub(rb"passed [\d.]+ ms", b"passed", wire.send(request).answer())
        try:
            return first, wire.send(post(SCORE, alike("after", amount=10))).answer()
        except (Closed, ConnectionError):
            return first, b""


@pytest.mark.parametrize("case", CASES)
def test_both_lanes_give_the_same_bytes_and_leave_the_connection_alike(case: str, lanes: dict[str, Served]) -> None:
    hot, plain = (answers(served.port, CASES[case]) for served in lanes.values())
    assert hot == plain
    assert status(hot[0]) < 500 or case.startswith("late")


def test_a_request_that_comes_byte_by_byte_is_a_request(port: int) -> None:
    request = post(SCORE, payment("bytes"))
    with Wire(port) as wire:
        whole = wire.send(request).answer()
        assert wire.send(*(request[i : i + 1] for i in range(len(request)))).answer() == whole


def test_a_hot_body_in_pieces_is_a_body(port: int) -> None:
    rows = ROW * 300
    body, header = binary(rows)
    request = post(INFER, body, header)
    with Wire(port) as wire:
        answer = wire.send(*(request[i : i + 7000] for i in range(0, len(request), 7000))).answer()
    assert status(answer) == 200
    assert b"binary_data_size" in answer


def test_pipelined_requests_are_answered_in_their_order(port: int) -> None:
    requests = [post(SCORE, payment(f"pipe-{i}")) for i in range(20)]
    requests[3:3] = [b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n\r\n", b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"]
    requests[9:9] = [post(SCORE, b"{"), post(INFER, tensor(ROW) | {"id": "rows"})]
    with Wire(port) as wire:
        wire.send(b"".join(requests))
        got = [wire.answer() for _ in requests]
    scored = [value(answer)["event_id"] for answer in got if b'"risk"' in answer and b'"event_id"' in answer]
    assert scored == [f"pipe-{i}" for i in range(20)]
    assert [status(answer) for answer in got] == [400 if i == 9 else 200 for i in range(len(got))]
    assert (value(got[3])["name"], value(got[10])["id"]) == ("vigil", "rows")


def test_after_a_pipelined_close_nothing_more_is_answered(port: int) -> None:
    first, last = post(SCORE, payment("one")), post(SCORE, payment("two"), CLOSE)
    with Wire(port) as wire:
        wire.send(first + last + first)
        assert [value(wire.answer())["event_id"] for _ in range(2)] == ["one", "two"]
        wire.closed()


def test_what_is_no_http_does_not_overtake_the_answer_before_it(port: int) -> None:
    with Wire(port) as wire:
        answer = wire.send(post(SCORE, payment("before")) + b"\x00\x01\x02 no http\r\n\r\n").answer()
        assert value(answer)["event_id"] == "before"


def test_who_expects_100_is_told_to_continue(port: int) -> None:
    request = post(SCORE, payment("continued"), "expect: 100-continue")
    head, body = request.split(b"\r\n\r\n")
    with Wire(port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert wire.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert value(wire.send(body).answer())["event_id"] == "continued"


def test_a_body_too_long_is_refused_before_it_comes(port: int) -> None:
    with Wire(port) as wire:
        wire.send(f"POST {SCORE} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {1 << 40}\r\n\r\n".encode())
        answer = wire.answer()
    assert status(answer) == 413
    assert str(MAX_BODY_BYTES) in value(answer)["error"]


@pytest.mark.parametrize("line", [b"x: " + b"y" * 100_000, b"x: y\r\n" * 20_000])
def test_a_head_too_long_is_refused_before_it_ends(port: int, line: bytes) -> None:
    with Wire(port) as wire:
        wire.send(f"POST {SCORE} HTTP/1.1\r\n".encode() + line)
        assert status(wire.answer()) == 431


SLOW = (
    f"POST {SCORE} HTTP/1.1\r\nhost: vig".encode(),
    post(SCORE, payment("slow"))[:-5],
    post("/v1/payments/feedback", {"event_id": "slow", "label": 1})[:-5],
    chunked(json.dumps(payment("slow")).encode())[:-20],
)


def test_slow_senders_are_ended_and_others_are_answered_meanwhile(port: int) -> None:
    slow = [Wire(port).send(part) for part in SLOW]
    with Wire(port) as other:
        for i in range(20):
            assert status(other.send(post(SCORE, payment(f"meanwhile-{i}"))).answer()) == 200
    for wire in slow:
        with wire:
            assert status(wire.answer()) == 408
            wire.closed()


def test_an_idle_connection_is_closed(port: int) -> None:
    with Wire(port) as silent, Wire(port) as kept:
        kept.send(post(SCORE, payment("kept"))).answer()
        kept.closed()
        silent.closed()


LONG = post(SCORE + "?features=true", json.dumps([payment("long")] * 20).encode() + b" " * 20_000)
MANY = 2000  # more, there and back, than the system's buffers hold


def test_who_does_not_read_is_not_read_from_and_gets_all_answers_when_it_reads(port: int) -> None:
    with Wire(port, buffer_bytes=1 << 14) as wire:
        sender = threading.Thread(target=wire.send, args=[LONG] * MANY)
        sender.start()
        sender.join(STALL_S / 2)
        assert sender.is_alive()
        for _ in range(MANY):
            assert status(wire.answer()) == 200
        sender.join()


def test_who_never_reads_is_ended(port: int) -> None:
    with Wire(port, buffer_bytes=1 << 14) as wire, pytest.raises(ConnectionError):
        wire.send(*[LONG] * 10 * MANY)


def test_callers_that_hang_up_harm_nobody(port: int) -> None:
    for i in range(50):
        with Wire(port) as wire:
            wire.send(post(SCORE, payment(f"gone-{i}"))[: None if i % 2 else -3])
    assert call(port, "POST", SCORE, payment("there")).status == 200


@pytest.mark.parametrize("lane", ["protocol", "asgi"])
def test_a_stopping_service_answers_what_has_begun(lane: str, environment: dict[str, str], tmp_path: Path) -> None:
    own = {"VIGIL_HTTP_LANE": lane, "VIGIL_STATE_DIR": str(tmp_path), "VIGIL_STALL_S": "20"}
    with Served(".", tmp_path / "log", environment | own) as served:
        request = post(SCORE, payment("last"))
        with Wire(served.port) as begun, Wire(served.port) as idle:
            assert status(idle.send(post(SCORE, payment("first"))).answer()) == 200
            begun.send(request[:-5])
            assert call(served.port, "GET", "/readyz").status == 200
            served.process.send_signal(signal.SIGTERM)
            idle.closed()
            answer = begun.send(request[-5:]).answer()
            assert (status(answer), value(answer)["event_id"]) == (200, "last")
            assert b"\r\nconnection: close\r\n" in answer
            begun.closed()
        assert served.process.wait(20) == 0


@pytest.mark.parametrize("lane", ["protocol", "asgi"])
def test_over_tls_it_answers_the_same(lane: str, environment: dict[str, str], tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued = authority.issue_cert(LOCALHOST)
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    own = {"VIGIL_HTTP_LANE": lane, "VIGIL_STATE_DIR": str(tmp_path)}
    arguments = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key))
    service = Served(".", tmp_path / "log", environment | own, arguments=arguments, trust=context)
    with service as served, Wire(served.port, context) as wire:
        assert status(wire.send(post(SCORE, payment("tls"))).answer()) == 200
        assert status(wire.send(post(INFER, tensor(ROW * 200))).answer()) == 200
