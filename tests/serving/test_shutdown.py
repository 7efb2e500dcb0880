"""How a service ends: no call is lost at SIGTERM, and nothing is left behind by a killed supervisor."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from testbed import tiny_model
from testbed.served import LOCALHOST, Served
from testbed.valkey import Valkey
from tests.serving.calls import call, payment
from tests.serving.wire import Closed, Wire, post, status
from vigil import domains

SCORE = "/v1/payments/score"
LANES = ("protocol", "asgi")
CALLERS = 8
SIGTERMS = 6


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a model in the store."""
    folder = tmp_path_factory.mktemp("shutdown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bento"))
        tiny_model.store(folder, domains.load("payments"))
    return {"BENTOML_HOME": str(folder / "bento"), "VIGIL_DOMAINS": "payments", "VIGIL_GRPC_PORT": "0"}


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with Valkey() as started:
        yield started


def ask_on(port: int, name: str, *headers: str) -> Counter[str]:
    """Asks again at once until the port refuses; how many calls ended how."""
    found: Counter[str] = Counter()
    wire = None
    while True:
        try:
            wire = wire or Wire(port)
        except ConnectionRefusedError:
            return found + Counter(refused=1)
        try:
            answer = wire.send(post(SCORE, payment(f"{name}-{found['answered']}"), *headers)).answer()
        except (Closed, ConnectionError):
            found["lost"] += 1
            wire = None
        else:
            found["answered" if status(answer) == 200 else "failed"] += 1
            if b"\r\nconnection: close\r\n" in answer:
                wire.closed()
                wire = None


@pytest.mark.parametrize("lane", LANES)
def test_at_sigterm_every_accepted_call_is_answered_and_later_ones_are_refused(
    lane: str, environment: dict[str, str], tmp_path: Path
) -> None:
    found: Counter[str] = Counter()

    def caller(port: int, name: str, *headers: str) -> Callable[[], None]:
        return lambda: found.update(ask_on(port, name, *headers))

    for _ in range(SIGTERMS):
        own = {"VIGIL_HTTP_LANE": lane, "VIGIL_STATE_DIR": str(tmp_path)}
        with Served(".", tmp_path / "log", environment | own) as served:
            fresh = [caller(served.port, f"f{i}", "connection: close") for i in range(CALLERS)]
            kept = [caller(served.port, f"k{i}") for i in range(CALLERS)]
            callers = [threading.Thread(target=each) for each in (*fresh, *kept)]
            for each in callers:
                each.start()
            time.sleep(0.3)
            served.process.terminate()
            for each in callers:
                each.join()
            assert served.process.wait(20) == 0
    assert (found["lost"], found["failed"], found["refused"]) == (0, 0, 2 * CALLERS * SIGTERMS)
    assert found["answered"] > found["refused"]


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; whether its parent has asked for its end does not matter."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_end_with_a_killed_supervisor_and_the_service_starts_again(
    workers: str, environment: dict[str, str], server: Valkey, tmp_path: Path
) -> None:
    own = {"VIGIL_STATE_DIR": str(tmp_path / "state"), "VIGIL_WORKERS": workers}
    if workers != "1":
        own["VIGIL_STATE_URL"] = server.url
    first = Served(".", tmp_path / "first", environment | own)
    with first:
        call(first.port, "POST", SCORE, payment("before"))
        below = psutil.Process(first.process.pid).children(recursive=True)
        with socket.create_connection((LOCALHOST, first.port)):  # idle: it holds nobody
            first.process.kill()
            killed_s = time.monotonic()
            while not all(has_ended(each) for each in below):
                assert time.monotonic() - killed_s < 3  # 0.5 s on a machine of its own
                time.sleep(0.01)
        assert (tmp_path / "state" / "features" / "payments" / "snapshot").exists() == (workers == "1")
    with Served(".", tmp_path / "again", environment | own, port=first.port) as again:
        answer = call(again.port, "POST", SCORE + "?features=true", payment("after")).json
    assert answer["features"]["customer_count_1d"] == 2


def test_a_start_waits_for_the_port_of_workers_that_are_about_to_end(
    environment: dict[str, str], tmp_path: Path
) -> None:
    own = {"VIGIL_STATE_DIR": str(tmp_path / "state")}
    with Served(".", tmp_path / "first", environment | own) as first:
        first.process.kill()
        with Served(".", tmp_path / "again", environment | own, port=first.port) as again:
            while "; ready" not in again.log.read_text():  # the first may still have answered
                assert again.process.poll() is None
                time.sleep(0.02)
            assert call(again.port, "POST", SCORE, payment("after")).status == 200
