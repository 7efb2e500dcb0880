"""Gates: what breaks one, and what their file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest import scenario
from loadtest.ledger import Ledger
from loadtest.scenario import Scenario, Step
from vigil.errors import ConfigError

BOUNDS = {"p50_ms": 10.0, "p99_ms": 50.0, "failed_share": 0.01, "goodput_share": 0.9}
BEGAN_S = 1000.25


def ledger(
    seconds: int = 10, per_s: int = 100, took_ms: float = 5.0, slow: int = 0, failed: int = 0, from_s: int = 0
) -> Ledger:
    """`per_s` requests in each second, `slow` of them of 80 ms, `failed` of them failed."""
    made = Ledger()
    for second in range(from_s, from_s + seconds):
        for i in range(per_s):
            made.add("a", BEGAN_S + second + i / per_s, 80.0 if i < slow else took_ms, i >= per_s - failed)
    return made


def steady(gates: dict[str, float] = BOUNDS) -> Scenario:
    return Scenario("steady", (Step(10, 100),), 2, gates)


def broken(of: Ledger) -> set[str]:
    return {gate.name for gate in steady().judged(of, BEGAN_S, 10) if not gate.passed}


@pytest.mark.parametrize(
    ("of", "names"),
    [
        (ledger(), set()),
        (ledger(took_ms=20), {"p50_ms"}),
        (ledger(slow=1), set()),
        (ledger(slow=3), {"p99_ms"}),
        (ledger(failed=1), set()),
        (ledger(failed=2), {"failed_share"}),
        (ledger(per_s=80), {"goodput_share"}),
        (Ledger(), {"p50_ms", "p99_ms", "goodput_share"}),
    ],
    ids=["well", "slow", "few-slow", "tail", "few-failed", "failed", "less-than-due", "nothing"],
)
def test_a_gate_is_broken_when_it_must_be_and_no_other(of: Ledger, names: set[str]) -> None:
    assert broken(of) == names


def test_what_was_due_in_the_warm_up_or_after_the_end_does_not_count() -> None:
    whole = ledger()
    whole.give(ledger(seconds=2, took_ms=5000, failed=50).taken())
    whole.give(ledger(seconds=5, took_ms=5000, failed=50, from_s=10).taken())
    assert broken(whole) == set()


def test_a_run_that_was_ended_early_is_judged_by_what_was_due_until_then() -> None:
    assert all(gate.passed for gate in steady().judged(ledger(seconds=6), BEGAN_S, 6))


@pytest.mark.parametrize(("slow_from", "held"), [(0, 0), (10, 100), (20, 200), (30, 400)])
def test_a_ramp_has_held_the_last_rate_before_the_first_that_broke_a_gate(slow_from: int, held: float) -> None:
    ramp = Scenario(
        "ramp", (Step(10, 100), Step(10, 200), Step(10, 400)), 2, {"p99_ms": 50, "held_per_s": 150}, until_broken=True
    )
    made = Ledger()
    for start, end, step in ramp.spans:
        took_ms = 80.0 if start >= slow_from else 5.0
        made.give(ledger(int(end - start), int(step.per_s), took_ms, from_s=int(start)).taken())
    gates = ramp.judged(made, BEGAN_S, 31)
    assert [(gate.name, gate.got, gate.passed) for gate in gates] == [("held_per_s", held, held >= 150)]


def test_the_rate_of_a_step_holds_from_its_start_to_before_its_end() -> None:
    spike = Scenario("spike", (Step(4, 10), Step(2, 50)), 1, BOUNDS)
    assert [spike.per_s(at) for at in (0, 3.9, 4, 5.9, 6)] == [10, 10, 50, 50, 0]
    assert spike.due(3, 100) == 10 + 100


@pytest.mark.parametrize("name", ["steady", "spike", "soak", "ramp"])
def test_the_scenarios_that_are_documented_are_there(name: str) -> None:
    assert scenario.load(name).seconds >= 60


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no scenario 'a', wanted one of"),
        ("[a", "toml"),
        ("[a]\nsteps = []\nwarm_s = 1\ngates = {p50_ms = 1}", "wanted at least one"),
        ("[a]\nsteps = [{seconds = 9, per_s = 15}]\nwarm_s = 1\ngates = {p50_ms = 1}", "rates in 10s"),
        ("[a]\nsteps = [{seconds = 9, rate = 1}]\nwarm_s = 1\ngates = {p50_ms = 1}", "rate"),
        ("[a]\nsteps = [{seconds = 9, per_s = 10}]\nwarm_s = 1\ngates = {p90_ms = 1}", "p90_ms"),
        ("[a]\nsteps = [{seconds = 9, per_s = 10}]\nwarm_s = 1\ngates = {}", "wanted some of p50_ms"),
        ("[a]\nsteps = [{seconds = 9, per_s = 10}]\nwarm_s = 1\ngates = {held_per_s = 10}", "until_broken"),
        ("[a]\nsteps = [{seconds = 9, per_s = 10}]\nwarm_s = 8\ngates = {p50_ms = 1}", "shortest step"),
        ("[a]\nsteps = [{seconds = 9, per_s = 10}]\nwarm = 1\ngates = {p50_ms = 1}", "warm"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_name(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        scenario.load("a", tmp_path / "gates.toml")
