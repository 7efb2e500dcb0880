"""Thousands of hostile inputs: none is taken for another's call, none makes the service fail, stop or swell."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
import pytest

from testbed import tiny_model
from testbed.served import LOCALHOST, Served
from tests.attack import cases
from tests.serving.calls import payment
from tests.serving.wire import Wire, post, status
from vigil import domains
from vigil.access import keys

SEED = 1
HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) .*?\r\n\r\n", re.DOTALL)
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
PUBLIC = {b"", b'{"ready":true}', b'{"live":true}'}
FINE = {501, 505}  # beside these, no status of 500 or more is an answer to bad input
BYSTANDER_S, BYSTANDER_WAITS_S = 0.05, 1.0


class Target(NamedTuple):
    served: Served
    key: str

    @property
    def worker(self) -> psutil.Process:
        found = psutil.Process(self.served.process.pid).children(recursive=True)
        return max(found, key=lambda each: each.memory_info().rss)


@pytest.fixture(scope="module", params=[("protocol", "native"), ("asgi", "grpcio")], ids=["hot", "plain"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service that asks for keys, and a key that may score and nothing else."""
    folder = tmp_path_factory.mktemp("attacked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bento"))
        tiny_model.store(folder, domains.load("payments"))
    _, key = keys.create(folder / "keys.json", "caller", ["score"])
    environment = {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_KEYS_FILE": str(folder / "keys.json"),
        "VIGIL_HTTP_LANE": request.param[0],
        "VIGIL_GRPC_SERVER": request.param[1],
    }
    with Served(".", folder / "log", environment) as served:
        found = Target(served, key)
        for each in cases.requests(SEED, 50, b""):  # what the first requests make stays
            exchange(served.port, each)
        yield found
        log = (folder / "log").read_text(errors="replace")
        assert "Traceback" not in log, log[-4000:]


@contextmanager
def bystander(target: Target) -> Iterator[None]:
    """Somebody who asks every 50 ms meanwhile gets each answer within a second; memory comes back."""
    over, waited_s, failed = threading.Event(), list[float](), list[BaseException]()
    before = target.worker.memory_info().rss

    def ask() -> None:
        try:
            with Wire(target.served.port) as wire:
                while not over.wait(BYSTANDER_S):
                    asked = post(cases.SCORE, payment(f"by-{len(waited_s)}"), f"X-API-Key: {target.key}")
                    began_s = time.perf_counter()
                    assert status(wire.send(asked).answer()) == 200
                    waited_s.append(time.perf_counter() - began_s)
        except BaseException as failure:
            failed.append(failure)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed, failed
    assert waited_s
    assert max(waited_s) < BYSTANDER_WAITS_S
    time.sleep(0.3)
    assert target.worker.memory_info().rss < 1.2 * before + (16 << 20)


def exchange(port: int, raw: bytes) -> bytes:
    """All that comes back on a connection of its own; an end that never comes is a failure."""
    got = b""
    with socket.create_connection((LOCALHOST, port), timeout=10) as wire:
        try:
            wire.sendall(raw)
            while select.select([wire], [], [], 0.05)[0]:
                part = wire.recv(1 << 16)
                if not part:
                    return got
                got += part
            wire.shutdown(socket.SHUT_WR)
            while part := wire.recv(1 << 16):
                got += part
        except ConnectionError:
            pass
    return got


def answers(got: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Status and body of each answer on a connection."""
    at = 0
    while head := HEAD.match(got, at):
        length = LENGTH.search(head[0])
        end = head.end() + int(length[1]) if length else head.end() if head[1] == b"100" else len(got)
        yield head[1], got[head.end() : end]
        at = end
    assert at >= len(got), got


def check(raw: bytes, got: bytes, with_key: bool) -> Counter[int]:
    """Statuses of the answers to one case, none of which is one too many."""
    found = Counter[int]()
    for code, body in answers(got):
        found[int(code)] += 1
        assert int(code) < 500 or int(code) in FINE, (raw, got)
        if code.startswith(b"2") and not (with_key and body.startswith((b'{"event_id"', b'[{"event_id"'))):
            assert body in PUBLIC or (with_key and b"<html" in got) or b"openapi" in got, (raw, got)
    return found


def run_all(target: Target, sent: Sequence[bytes], with_key: bool) -> Counter[int]:
    """Sends each on a connection of its own, sixteen at a time."""
    total = Counter[int]()
    with ThreadPoolExecutor(16) as pool:
        for raw, got in zip(sent, pool.map(partial(exchange, target.served.port), sent), strict=True):
            total += check(raw, got, with_key)
    return total


@pytest.mark.parametrize("with_key", [False, True])
def test_damaged_requests(target: Target, with_key: bool) -> None:
    line = f"X-API-Key: {target.key}\r\n".encode() if with_key else b""
    sent = [*cases.requests(SEED, 1200, line), *(path.read_bytes() for path in sorted(cases.CORPUS.glob("*.http")))]
    with bystander(target):
        found = run_all(target, sent, with_key)
    assert {400, 401} <= set(found)
    assert (200 in found) or not with_key


@pytest.mark.parametrize("with_key", [False, True])
def test_damaged_bodies(target: Target, with_key: bool) -> None:
    headers = (f"X-API-Key: {target.key}",) if with_key else ()
    found = Counter[int]()
    with bystander(target), Wire(target.served.port) as wire:
        for path, body in cases.bodies(SEED, 1000):
            found[status(wire.send(post(path, body, *headers)).answer())] += 1
        for body, length in cases.tensors(SEED, 300):
            sent = post(cases.INFER, body, f"Inference-Header-Content-Length: {length}", *headers)
            found[status(wire.send(sent).answer())] += 1
    assert set(found) <= ({200, 400, 403, 409} if with_key else {401})


REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")


@pytest.mark.parametrize("with_key", [False, True])
def test_damaged_messages(target: Target, with_key: bool) -> None:
    metadata = [("x-api-key", target.key)] if with_key else []
    found = Counter[tuple[str, str]]()
    with bystander(target), grpc.insecure_channel(target.served.grpc_address) as channel:
        for method, raw in cases.messages(SEED, 600):
            call = channel.unary_unary(method, None, None)
            try:
                call(raw, timeout=10, metadata=metadata)
                found[method, "OK"] += 1
            except grpc.RpcError as failure:
                found[method, failure.code().name] += 1
    codes = {code for _, code in found}
    assert codes <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", *REFUSED, "UNIMPLEMENTED"}
    assert {method for method, code in found if code == "OK"} <= ({"/vigil.v1.Decisions/Score"} if with_key else set())


def test_frames_of_http2_that_no_client_sends(target: Target) -> None:
    with bystander(target), ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(exchange, target.served.grpc_port), cases.frames(SEED, 300)))
    with grpc.insecure_channel(target.served.grpc_address) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)


def test_there_are_at_least_six_thousand_cases() -> None:
    assert 2 * (2 * 1200 + 2 * 1300 + 2 * 600 + 300) >= 6000
    assert [*cases.requests(SEED, 20, b"")] == [*cases.requests(SEED, 20, b"")]


def test_the_corpus_is_there() -> None:
    assert len([*Path(cases.CORPUS).glob("*.http")]) >= 8
