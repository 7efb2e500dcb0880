"""The capacity model: its arithmetic, and whether a real service uses what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import scaling
from loadtest.capacity import Capacity, Point, fitted
from loadtest.limits import Trial
from testbed import tiny_model
from testbed.served import ROOT
from vigil import domains
from vigil.errors import InvalidInput

MODEL = Capacity(idle=0.1, cpu_us=100, wait_ms=2)  # 0.1 of a core, and 1/10,000 of it a request a second


def test_a_rate_within_a_p99_needs_as_many_pods_as_stay_within_both_bounds() -> None:
    assert MODEL.per_worker(p99_ms=50) == pytest.approx(6000)  # 0.7 of the core
    assert MODEL.per_worker(p99_ms=4) == pytest.approx(4000)  # half of the core doubles the time
    assert [MODEL.pods(rate, 50) for rate in (1, 6000, 6001, 60_000)] == [1, 1, 2, 10]
    assert MODEL.pods(60_000, 50, workers=2) == 5
    assert MODEL.pods(60_000, 4) == 15


def test_what_the_model_says_of_a_rate_is_what_it_plans_with() -> None:
    for p99_ms in (3, 4, 10, 50):
        each = MODEL.per_worker(p99_ms)
        assert MODEL.p99_ms(each) <= p99_ms * 1.0001
        assert MODEL.use(each) <= 0.7001
    assert MODEL.p99_ms(9000) == float("inf")


def test_more_of_anything_never_needs_fewer_pods() -> None:
    rates = [MODEL.pods(rate, 20) for rate in range(1000, 50_000, 1000)]
    promises = [MODEL.pods(20_000, p99_ms) for p99_ms in (50, 20, 10, 5, 3)]
    assert rates == sorted(rates)
    assert promises == sorted(promises)


def test_a_promise_that_no_worker_keeps_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"p99 2 ms .*an empty worker has 2\.22 ms and uses 10%"):
        MODEL.pods(1, 2)


def test_a_million_predictions_cost_the_cores_they_are_made_on() -> None:
    # 10,000 a second for 100 seconds, of a core at 36 an hour
    assert MODEL.cost(10_000, 36) == pytest.approx(1.0)


def test_the_model_is_found_again_in_what_it_says() -> None:
    seen = [Point(rate, MODEL.use(rate), MODEL.p99_ms(rate)) for rate in (100, 1000, 5000)]
    found = fitted(seen)
    assert (found.idle, found.cpu_us, found.wait_ms) == pytest.approx((0.1, 100, 2))


def test_noise_makes_no_worker_that_uses_less_than_nothing() -> None:
    found = fitted([Point(1000, 0.1, 1), Point(2000, 0.3, 1)])
    assert found.idle == 0
    assert found.cpu_us == pytest.approx(140)
    with pytest.raises(InvalidInput, match="two different rates"):
        fitted([Point(1000, 0.1, 1)] * 3)


def test_the_command_answers_as_documented_and_refuses() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    asked, answered = re.findall(r"^\$ python (-m loadtest\.capacity .*)\n((?:.+\n)+)```", text, re.MULTILINE)[0]
    command = [sys.executable, *shlex.split(asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == answered
    done = subprocess.run([*command, "--wait-ms", "60"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "an empty worker has" in done.stderr


def test_the_page_of_operations_has_a_place_for_what_is_measured() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    assert text.count(f"<!-- {scaling.MARKER} -->") == text.count(f"<!-- /{scaling.MARKER} -->") == 1


def test_a_service_uses_what_the_model_of_other_rates_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    tiny_model.store(tmp_path, domains.load("payments"))
    for case, service, servers in scaling.cases(Trial(1, tmp_path), scaling.CASES[:1]):
        low, between, high = (
            point for _, point in scaling.points(service, servers, case.workers, (200, 600, 1200), seconds=2)
        )
    model = fitted([low, high])
    # Processor time, unlike time, does not depend on who else is at work: only by what they do to caches.
    assert model.use(between.per_s) / 2 < between.use < model.use(between.per_s) * 2
    assert model.pods(between.per_s, p99_ms=1000 * model.wait_ms) == 1
