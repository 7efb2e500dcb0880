"""A service in one process whose disk runs full, and has room again."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from testbed import tiny_model
from testbed.served import Served
from tests.serving.calls import call, payment
from vigil import domains

SCORE = "/v1/payments/score?features=true"
FEEDBACK = "/v1/payments/feedback"

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process: Linux only")


def until(holds: Callable[[], bool], wait_s: float = 30.0) -> None:
    until_s = time.monotonic() + wait_s
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_while_the_disk_is_full_rules_answer_and_the_service_comes_back_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"BENTOML_HOME": str(tmp_path / "bento"), "VIGIL_STATE_DIR": str(tmp_path / "state")}
    monkeypatch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
    tiny_model.store(tmp_path, domains.load("payments"))
    environment |= {"VIGIL_DOMAINS": "payments", "VIGIL_RECORDS": "false"}
    with Served(".", tmp_path / "log", environment) as service:

        def score(event_id: str) -> dict[str, object]:
            answer = call(service.port, "POST", SCORE, payment(event_id, customer="full"))
            assert answer.status == 200, answer.body
            found: dict[str, object] = answer.json
            return found

        def told(line: str) -> bool:
            return f"\n{line}\n" in call(service.port, "GET", "/metrics").body.decode()

        first = [score(f"before-{i}") for i in range(3)]
        assert {answer["degraded"] for answer in first} == {False}
        worker = max(psutil.Process(service.process.pid).children(recursive=True), key=lambda p: p.memory_info().rss)
        journal = tmp_path / "state" / "features" / "payments" / "journal-0"
        before = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (journal.stat().st_size + 10, before[1]))
        away = [score(f"away-{i}") for i in range(3)]
        assert {(answer["degraded"], answer["tier"], "features" in answer) for answer in away} == {
            (True, "rules", False)
        }
        assert call(service.port, "POST", FEEDBACK, {"event_id": "before-0", "label": 1}).status == 503
        ready = call(service.port, "GET", "/readyz")
        assert (ready.status, "journal-0 cannot be written: File too large" in ready.body.decode()) == (503, True)
        # The limit is of the log, too: tests/features/test_state.py reads what it says.
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, before)
        until(lambda: call(service.port, "GET", "/readyz").status == 200)
        assert told('vigil_events_total{domain="payments",status="state_away"} 3.0')
        again = [score(f"before-{i}") for i in range(3)]
        assert again == first
        more = score("away-0")
        assert more["features"]["customer_count_1d"] == 4  # type: ignore[index]
        assert call(service.port, "POST", FEEDBACK, {"event_id": "before-0", "label": 1}).json["status"] == "labelled"
        worker.kill()
        worker.wait(10)
        assert [score(f"before-{i}") for i in range(3)] == first
        assert score("away-0") == more
    assert (tmp_path / "log").read_text().count("can be written again") == 1
