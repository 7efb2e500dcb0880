"""Scenarios of load and the gates they must pass, from `loadtest/gates.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from loadtest.ledger import Ledger
from vigil.errors import ConfigError

GATES = Path(__file__).with_name("gates.toml")
PER_S = 10.0  # requests a second of one caller: a rate is made by their number
UPPER, LOWER = ("p50_ms", "p99_ms", "failed_share"), ("goodput_share", "held_per_s")


@dataclass(frozen=True)
class Step:
    """A rate, requests a second, for so many seconds."""

    seconds: float
    per_s: float


@dataclass(frozen=True)
class Gate:
    """One figure and its bound."""

    name: str
    got: float
    wanted: float

    @property
    def passed(self) -> bool:
        """Whether it is on the right side."""
        return self.got <= self.wanted if self.name in UPPER else self.got >= self.wanted

    def __str__(self) -> str:
        return f"{self.name}: {self.got:.4g}, wanted {'at most' if self.name in UPPER else 'at least'} {self.wanted:g}"


@dataclass(frozen=True)
class Scenario:
    """Steps of load one after another, and bounds by the names of gates.

    Args:
        warm_s: seconds at the start that do not count; where it is until_broken, of each step.
        until_broken: whether it ends at the first step that does not hold its gates.
    """

    name: str
    steps: tuple[Step, ...]
    warm_s: float
    gates: dict[str, float]
    until_broken: bool = False

    @property
    def seconds(self) -> float:
        """How long it lasts at most."""
        return sum(step.seconds for step in self.steps)

    @property
    def spans(self) -> list[tuple[float, float, Step]]:
        """Each step with the seconds in which it starts and ends."""
        ends = [0.0]
        for step in self.steps:
            ends.append(ends[-1] + step.seconds)
        return [(start, end, step) for (start, end), step in zip(pairwise(ends), self.steps, strict=True)]

    def per_s(self, at_s: float) -> float:
        """The rate then; 0 after the end."""
        return next((step.per_s for start, end, step in self.spans if start <= at_s < end), 0.0)

    def due(self, start_s: float, end_s: float) -> float:
        """Requests that fall due in between."""
        return sum(step.per_s * max(0.0, min(end, end_s) - max(start, start_s)) for start, end, step in self.spans)

    def window(self, began_s: float, until_s: float) -> tuple[int, int]:
        """The epoch seconds that count, from the first to before the second: whole ones, after the warm-up."""
        return int(began_s + self.warm_s) + 1, int(began_s + min(self.seconds, until_s))

    def held(self, ledger: Ledger, began_s: float, until_s: float) -> float:
        """The rate of the last step before `until_s` up to which all held; 0 where the first did not."""
        rate = 0.0
        for start, end, step in self.spans:
            gates = self._gates(ledger, began_s, int(began_s + start + self.warm_s) + 1, int(began_s + end))
            if end > until_s or not all(gate.passed for gate in gates):
                break
            rate = step.per_s
        return rate

    def judged(self, ledger: Ledger, began_s: float, until_s: float) -> list[Gate]:
        """Every gate with what was got.

        Args:
            began_s: epoch second of the start.
            until_s: seconds after it until which load was sent.
        """
        if not self.until_broken:
            return self._gates(ledger, began_s, *self.window(began_s, until_s))
        return [Gate("held_per_s", self.held(ledger, began_s, until_s), self.gates["held_per_s"])]

    def _gates(self, ledger: Ledger, began_s: float, start: int, end: int) -> list[Gate]:
        cell = ledger.between(start, end)
        due = self.due(start - began_s, end - began_s)
        got = {
            "p50_ms": cell.quantile_ms(0.5),
            "p99_ms": cell.quantile_ms(0.99),
            "failed_share": cell.failed / max(cell.good + cell.failed, 1),
            "goodput_share": cell.good / due if due else 0.0,
        }
        return [Gate(name, got[name], wanted) for name, wanted in self.gates.items() if name in got]


def load(name: str, path: Path = GATES) -> Scenario:
    """The scenario of that name.

    Raises:
        ConfigError: where the file has none, or one that makes no sense.
    """
    try:
        found: dict[str, dict[str, Any]] = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as failure:
        raise ConfigError(f"{path}: {failure}") from None
    if name not in found:
        raise ConfigError(f"{path}: no scenario {name!r}, wanted one of {', '.join(found)}")
    try:
        given = found[name] | {"steps": tuple(Step(**step) for step in found[name]["steps"])}
        scenario = Scenario(name=name, **given)
    except (TypeError, KeyError) as failure:
        raise ConfigError(f"{path}, [{name}]: {failure}") from None
    wrong = set(scenario.gates) - {*UPPER, *LOWER}
    if wrong or not scenario.gates or scenario.until_broken != ("held_per_s" in scenario.gates):
        raise ConfigError(
            f"{path}, [{name}]: gates {sorted(scenario.gates)}, wanted some of {', '.join((*UPPER, *LOWER))}, "
            "held_per_s with until_broken only"
        )
    if not scenario.steps or any(step.per_s <= 0 or step.per_s % PER_S for step in scenario.steps):
        raise ConfigError(f"{path}, [{name}]: steps {scenario.steps}, wanted at least one, rates in {PER_S:g}s")
    if not 0 <= scenario.warm_s < min(step.seconds for step in scenario.steps) - 2:
        raise ConfigError(f"{path}, [{name}]: warm_s {scenario.warm_s}, wanted over 2 s less than the shortest step")
    return scenario
