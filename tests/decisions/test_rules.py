"""The tier that needs no model."""

from __future__ import annotations

import dataclasses

import pytest

from vigil import domains
from vigil.decisions.rules import RulesTier
from vigil.domains.schema import Schema
from vigil.domains.spec import Rules

PAYMENTS = domains.load("payments")
RULES = Rules(number="amount", limit=1000.0, slope=0.002, intercept=-0.1, threshold=0.5)
TIER = RulesTier(dataclasses.replace(PAYMENTS, policy=dataclasses.replace(PAYMENTS.policy, rules=RULES)))


@pytest.mark.parametrize(
    ("amount", "risk", "action", "reasons"),
    [
        (10.0, 0.0, "approve", []),
        (100.0, 0.1, "approve", []),
        (300.0, 0.5, "approve", []),
        (301.0, 0.502, "review", ["over_threshold"]),
        (1000.0, 1.0, "review", ["over_threshold"]),
        (1000.01, 1.0, "block", ["over_limit"]),
    ],
)
def test_the_line_gives_the_risk_and_the_limit_stops(
    amount: float, risk: float, action: str, reasons: list[str]
) -> None:
    event = Schema(PAYMENTS).make(PAYMENTS.example | {"amount": amount})
    decision = TIER.decide([event])[0]
    assert (decision.risk, decision.action, decision.reasons) == (pytest.approx(risk), action, reasons)


def test_every_decision_is_marked_as_degraded() -> None:
    decision = TIER.decide([Schema(PAYMENTS).make(PAYMENTS.example)])[0]
    assert (decision.tier, decision.degraded, decision.model) == ("rules", True, "")
