"""Several workers on one feature state, and a service whose state is away."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed import tiny_model
from testbed.served import NotServed, Served
from testbed.valkey import Valkey
from tests.serving.calls import Answer, call, payment
from vigil import domains

NOON_MS = 1_538_308_800_000
SCORE, FEEDBACK = "/v1/payments/score?features=true", "/v1/payments/feedback"
TIMEOUT_MS = 300


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with Valkey("--appendonly", "yes") as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, server: Valkey) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("shared")
    environment = {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_STATE_URL": server.url,
        "VIGIL_STATE_TIMEOUT_MS": str(TIMEOUT_MS),
        "VIGIL_WORKERS": "2",
        "VIGIL_DOMAINS": "payments",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
        tiny_model.store(folder, domains.load("payments"))
    with Served(".", folder / "log", environment) as service:
        # Each worker comes up on its own.
        until(lambda: "vigil_ready 2.0" in call(service.port, "GET", "/metrics").body.decode())
        yield service


def until(holds: Callable[[], bool], wait_s: float = 30.0) -> None:
    until_s = time.monotonic() + wait_s
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def score(service: Served, event_id: str, **changes: object) -> Answer:
    return call(service.port, "POST", SCORE, payment(event_id, **changes))


def sums(service: Served, name: str) -> float:
    lines = call(service.port, "GET", "/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def counted(service: Served) -> float:
    """Events that count; of those that come at once some are late."""
    statuses = ("new", "late", "too_late")
    return sum(sums(service, f'vigil_events_total{{domain="payments",status="{status}"}}') for status in statuses)


def test_what_one_worker_has_seen_counts_for_the_other_and_both_are_in_the_metrics(shared: Served) -> None:
    before = counted(shared)
    barrier = threading.Barrier(16)

    def one(i: int) -> Answer:
        barrier.wait()
        return score(shared, f"s{i}", ts=NOON_MS + 1000 * i, customer="shared")

    with ThreadPoolExecutor(16) as callers:  # at once, so that both workers take some
        answers = list(callers.map(one, range(16)))
    assert {answer.json["tier"] for answer in answers} == {"full"}
    last = score(shared, "last", ts=NOON_MS + 60_000, customer="shared").json
    assert last["features"]["customer_count_1d"] == 17
    # Whoever is asked, an event's answer is that of the first time.
    again = [score(shared, "last", ts=NOON_MS + 60_000, customer="shared").json for _ in range(8)]
    assert again == [last] * 8
    changed = [score(shared, "last", amount=999.0, ts=NOON_MS + 60_000, customer="shared").status for _ in range(8)]
    assert changed == [409] * 8
    until(lambda: counted(shared) == before + 17)


def test_a_label_told_to_one_worker_is_known_to_the_other(shared: Served) -> None:
    score(shared, "labelled")
    label = {"event_id": "labelled", "label": 1}
    became = [call(shared.port, "POST", FEEDBACK, label).json["status"] for _ in range(8)]
    assert became == ["labelled"] + ["label_known"] * 7


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGSTOP], ids=["stopped", "hanging"])
def test_while_the_state_is_away_rules_answer_in_time_and_the_service_comes_back_by_itself(
    shared: Served, server: Valkey, how: signal.Signals
) -> None:
    known = score(shared, "known", customer="away").json
    before = sums(shared, 'vigil_events_total{domain="payments",status="state_away"}')
    stopped, back, failures, slowest_s = threading.Event(), threading.Event(), [], [0.0]
    seen: dict[str, int] = {"full": 0, "rules": 0}

    def caller(name: int) -> None:
        i = 0
        while not back.is_set():
            started_s, was_stopped = time.monotonic(), stopped.is_set()
            answer = score(shared, f"away-{how}-{name}-{i}", customer=f"away{name}")
            slowest_s[0] = max(slowest_s[0], time.monotonic() - started_s)
            if answer.status == 429:  # what waits while the first find out is bounded, as always
                continue
            if answer.status != 200 or answer.json["degraded"] != (answer.json["tier"] == "rules"):
                failures.append(answer)
            seen[answer.json["tier"]] += 1
            if was_stopped and answer.json["tier"] == "rules" and "features" in answer.json:
                failures.append(answer)
            i += 1

    callers = [threading.Thread(target=caller, args=(name,)) for name in range(4)]
    for thread in callers:
        thread.start()
    until(lambda: seen["full"] > 20)
    server.stop(how)
    stopped.set()
    until(lambda: seen["rules"] > 20)
    assert call(shared.port, "POST", FEEDBACK, {"event_id": "known", "label": 1}).status == 503
    until(lambda: sums(shared, "vigil_state_away") == 2)
    ready = call(shared.port, "GET", "/readyz")
    assert (ready.status, "feature state redis://" in ready.body.decode()) == (503, True)
    if how == signal.SIGSTOP:
        server.resume()
    else:
        server.start()
    until(lambda: call(shared.port, "GET", "/readyz").status == 200 and sums(shared, "vigil_state_away") == 0)
    full = seen["full"]
    until(lambda: seen["full"] > full + 20)
    back.set()
    for thread in callers:
        thread.join()
    assert not failures
    assert slowest_s[0] < 10 * TIMEOUT_MS / 1000  # a machine full of tests is slow; waits that add up are slower
    assert score(shared, "known", customer="away").json == known
    until(lambda: sums(shared, 'vigil_events_total{domain="payments",status="state_away"}') > before + 20)


def test_a_service_started_before_its_state_answers_and_becomes_ready_when_it_comes(tmp_path: Path) -> None:
    server = Valkey()
    environment = {
        "BENTOML_HOME": str(tmp_path / "bento"),
        "VIGIL_STATE_DIR": str(tmp_path / "state"),
        "VIGIL_STATE_URL": server.url,
        "VIGIL_DOMAINS": "payments",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
        tiny_model.store(tmp_path, domains.load("payments"))
    with Served(".", tmp_path / "log", environment, path="/livez") as service:
        until(lambda: score(service, "early").status == 200)
        assert score(service, "early").json["tier"] == "rules"
        assert call(service.port, "GET", "/readyz").status == 503
        with server:
            until(lambda: call(service.port, "GET", "/readyz").status == 200)
            assert score(service, "early").json["tier"] == "full"


def test_several_workers_on_memory_are_refused_with_the_way_out(tmp_path: Path) -> None:
    environment = {"VIGIL_WORKERS": "2", "VIGIL_STATE_DIR": str(tmp_path)}
    with pytest.raises(NotServed, match=r"memory belongs to one process.*VIGIL_STATE_URL=redis"):
        Served(".", tmp_path / "log", environment).__enter__()
