"""What a killed worker leaves behind."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from testbed import tiny_model
from testbed.served import Served
from tests.serving.calls import call, payment
from vigil import domains


def test_a_worker_killed_with_sigkill_comes_back_and_knows_what_it_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"BENTOML_HOME": str(tmp_path / "bento"), "VIGIL_STATE_DIR": str(tmp_path / "state")}
    monkeypatch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
    tiny_model.store(tmp_path, domains.load("payments"))
    score = "/v1/payments/score?features=true"
    with Served(".", tmp_path / "log", environment | {"VIGIL_DOMAINS": "payments"}) as service:
        first = [call(service.port, "POST", score, payment(f"k{i}", amount=10.0 + i)).json for i in range(5)]
        worker = max(psutil.Process(service.process.pid).children(recursive=True), key=lambda p: p.memory_info().rss)
        worker.kill()
        worker.wait(10)
        # The socket belongs to the parent: calls wait for the new worker.
        again = [call(service.port, "POST", score, payment(f"k{i}", amount=10.0 + i)).json for i in range(5)]
        changed = [call(service.port, "POST", score, payment(f"k{i}", amount=999.0)).status for i in range(5)]
        more = call(service.port, "POST", score, payment("k5")).json
        told = call(service.port, "GET", "/metrics").body.decode()
    assert again == first
    assert changed == [409] * 5
    assert more["features"]["customer_count_1d"] == 6
    assert "\nvigil_ready 1.0\n" in told
    assert "\nvigil_workers 1.0\n" in told
    assert "\nvigil_worker_starts_total 2.0\n" in told
    assert 'vigil_requests_total{route="/v1/{domain}/score",status="200",transport="http"}' in told
