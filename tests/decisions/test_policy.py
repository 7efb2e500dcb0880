"""From risks to actions and reasons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vigil import domains
from vigil.decisions.policy import Decider
from vigil.domains.schema import Schema
from vigil.domains.spec import Reason

PAYMENTS = domains.load("payments")
EVENT = Schema(PAYMENTS).make(PAYMENTS.example)
COLUMN = PAYMENTS.feature_names.index("amount")
POLICY = dataclasses.replace(
    PAYMENTS.policy,
    review_at=0.1,
    block_at=0.5,
    reasons=(
        Reason("large", "amount", "", above=100.0),
        Reason("small", "amount", "", below=1.0),
        Reason("not_small", "amount", "", above=1.0),
    ),
)
DECIDER = Decider(dataclasses.replace(PAYMENTS, policy=POLICY))


def features(*amounts: float) -> np.ndarray:
    rows = np.zeros((len(amounts), len(PAYMENTS.features)), np.float32)
    rows[:, COLUMN] = amounts
    return rows


@pytest.mark.parametrize(
    ("risk", "action"),
    [(0.0, "approve"), (0.0999, "approve"), (0.1, "review"), (0.4999, "review"), (0.5, "block"), (1.0, "block")],
)
def test_a_threshold_belongs_to_the_more_severe_action(risk: float, action: str) -> None:
    decision = DECIDER.decide([EVENT], [risk], features(50.0), "payments:1")[0]
    assert (decision.action, decision.risk, decision.event_id) == (action, risk, EVENT.event_id)
    assert (decision.model, decision.tier, decision.degraded) == ("payments:1", "full", False)


def test_reasons_come_in_the_order_of_the_policy_and_only_where_they_hold() -> None:
    decisions = DECIDER.decide([EVENT] * 3, [0.9, 0.2, 0.2], features(200.0, 0.5, 1.0), "m")
    assert [decision.reasons for decision in decisions] == [["large", "not_small"], ["small"], []]


def test_the_harmless_action_has_no_reasons() -> None:
    assert DECIDER.decide([EVENT], [0.01], features(200.0), "m")[0].reasons == []
