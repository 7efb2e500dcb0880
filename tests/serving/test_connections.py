"""Every connection has an end, and no number of them troubles those that are established."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import trustme

from testbed import tiny_model
from testbed.served import LOCALHOST, Served
from tests.serving.calls import call, payment
from tests.serving.wire import Closed, Wire, post, status
from vigil import domains

SCORE = "/v1/payments/score"
LANES = pytest.mark.parametrize("lane", ["protocol", "asgi"])
STALL_S = 1.0
DESCRIPTORS = 128
UPGRADE = (
    b"GET /socket HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a model in the store."""
    folder = tmp_path_factory.mktemp("connections")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bento"))
        tiny_model.store(folder, domains.load("payments"))
    return {"BENTOML_HOME": str(folder / "bento"), "VIGIL_DOMAINS": "payments", "VIGIL_STALL_S": str(STALL_S)}


def worker_of(served: Served) -> psutil.Process:
    return max(psutil.Process(served.process.pid).children(recursive=True), key=lambda each: each.memory_info().rss)


def held(worker: psutil.Process, wires: list[Wire]) -> list[int]:
    """Which connections the worker has not let go, by their place."""
    open_ports = {each.raddr.port for each in worker.net_connections() if each.raddr}
    return [i for i, wire in enumerate(wires) if wire.socket.getsockname()[1] in open_ports]


@LANES
@pytest.mark.parametrize("flooded", ["HTTP", "native", "grpcio"])
def test_with_few_descriptors_established_callers_go_on_and_new_ones_are_refused(
    lane: str, flooded: str, environment: dict[str, str], tmp_path: Path
) -> None:
    own = {
        "VIGIL_HTTP_LANE": lane,
        "VIGIL_STATE_DIR": str(tmp_path),
        "VIGIL_GRPC_SERVER": "grpcio" if flooded == "grpcio" else "native",
        # Serving opens files all the time.
        "VIGIL_JOURNAL_FSYNC_MS": "1",
        "VIGIL_JOURNAL_MAX_BYTES": str(1 << 16),
    }
    service = Served(".", tmp_path / "log", environment | own, descriptors=DESCRIPTORS)
    with service as served, Wire(served.port) as established, ExitStack() as flood:
        next_s = time.monotonic()
        until_s = next_s + 3
        found: Counter[int] = Counter()
        while time.monotonic() < until_s:
            burst = 20 if time.monotonic() >= next_s else 0
            next_s += burst / 200
            for _ in range(burst):
                idle = flood.enter_context(socket.socket())
                idle.setblocking(False)
                idle.connect_ex((LOCALHOST, served.port if flooded == "HTTP" else served.grpc_port))
            found[status(established.send(post(SCORE, payment(f"e{sum(found.values())}"))).answer())] += 1
        assert list(found) == [200]
        if flooded == "HTTP":
            with pytest.raises((AssertionError, ConnectionError, Closed)), Wire(served.port) as refused:
                assert status(refused.send(post(SCORE, payment("refused"))).answer()) == 200
        flood.close()
        time.sleep(0.5)
        answer = call(served.port, "POST", SCORE + "?features=true", payment("after")).json
        counted = answer["features"]["customer_count_1d"]
    assert counted == min(sum(found.values()) + 1, 4097)
    assert "Traceback" not in served.log.read_text()


@LANES
def test_connections_are_limited_in_all_and_per_address(lane: str, environment: dict[str, str], tmp_path: Path) -> None:
    own = {
        "VIGIL_HTTP_LANE": lane,
        "VIGIL_STATE_DIR": str(tmp_path),
        "VIGIL_GRPC_PORT": "0",
        "VIGIL_MAX_CONNECTIONS": "5",
        "VIGIL_MAX_CONNECTIONS_PER_ADDRESS": "3",
    }
    with Served(".", tmp_path / "log", environment | own) as served, ExitStack() as wires:

        def opened(address: str) -> bytes:
            wire = wires.enter_context(Wire(served.port, source=address))
            time.sleep(0.02)
            with suppress(ConnectionError):  # refused before that
                wire.send(b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n\r\n")
            return wire.answer()

        assert [status(opened(LOCALHOST)) for _ in range(3)] == [200] * 3
        refusal = opened(LOCALHOST)
        assert status(refusal) == 503
        assert b"\r\nretry-after: 1\r\n" in refusal
        assert [status(opened("127.0.0.2")) for _ in range(2)] == [200] * 2
        assert status(opened("127.0.0.3")) == 503
        wires.close()
        time.sleep(0.1)
        for _ in range(10):
            with Wire(served.port) as wire:
                assert status(wire.send(UPGRADE).answer()) == 404
            time.sleep(0.02)
        assert status(opened(LOCALHOST)) == 200


@LANES
def test_a_closing_connection_whose_caller_reads_nothing_is_ended(
    lane: str, environment: dict[str, str], tmp_path: Path
) -> None:
    own = {"VIGIL_HTTP_LANE": lane, "VIGIL_STATE_DIR": str(tmp_path), "VIGIL_GRPC_PORT": "0"}
    event = payment("unread")
    with Served(".", tmp_path / "log", environment | own) as served, ExitStack() as wires:
        worker = worker_of(served)
        unread = []
        # Of one of these sizes, the kernel's buffers leave between none and 64 KiB, where nobody is told to pause.
        for events in range(40, 3700, 45):
            wire = wires.enter_context(Wire(served.port, buffer_bytes=1 << 12))
            unread.append(wire.send(post(SCORE + "?features=true", [event] * events, "connection: close")))
            wire.socket.recv(1, socket.MSG_PEEK)  # one after the other, so that none waits to be read for long
        full = worker.memory_info().rss
        until_s = time.monotonic() + 5 * STALL_S
        while (left := held(worker, unread)) and time.monotonic() < until_s:
            time.sleep(0.1)
        assert left == []
        assert worker.memory_info().rss <= full + (1 << 20)  # a page or two more is no answer that is kept
        assert call(served.port, "POST", SCORE, payment("after")).status == 200


def test_a_tls_handshake_that_never_ends_is_ended(environment: dict[str, str], tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert(LOCALHOST)
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    arguments = ("--ssl-certfile", str(tmp_path / "certificate.pem"), "--ssl-keyfile", str(tmp_path / "key.pem"))
    own = {"VIGIL_STATE_DIR": str(tmp_path), "VIGIL_GRPC_PORT": "0"}
    service = Served(".", tmp_path / "log", environment | own, arguments=arguments, trust=context)
    with service as served, Wire(served.port) as silent, Wire(served.port) as begun:
        begun.send(b"\x16\x03\x01\x02\x00")
        assert silent.closed() < 5 * STALL_S
        assert begun.closed() < 5 * STALL_S


@LANES
@pytest.mark.parametrize("at_once", [30, 180], ids=["of a head", "of a body"])
def test_a_caller_that_sends_a_byte_now_and_then_is_ended(
    lane: str, at_once: int, environment: dict[str, str], tmp_path: Path
) -> None:
    own = {"VIGIL_HTTP_LANE": lane, "VIGIL_STATE_DIR": str(tmp_path), "VIGIL_GRPC_PORT": "0"}
    request = post(SCORE, json.dumps(payment("slow")).encode() + b" " * 1000)
    with Served(".", tmp_path / "log", environment | own) as served, Wire(served.port) as wire:
        wire.send(request[:at_once])
        begun_s = time.monotonic()
        with suppress(ConnectionError):
            for i in range(at_once, len(request)):
                wire.send(request[i : i + 1])
                time.sleep(STALL_S / 5)
                assert time.monotonic() - begun_s < 5 * STALL_S
