"""The tier that needs no model: a limit, and a line whose value is the risk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vigil.decisions.decision import Decision
from vigil.domains.spec import Domain

RULES = "rules"
OVER_LIMIT = "over_limit"
OVER_THRESHOLD = "over_threshold"
LATE = "late"


class RulesTier:
    """`risk = clip(slope * value + intercept, 0, 1)`; over the limit it is 1.

    Over the limit the event is stopped, above the threshold a person looks, else it passes. The
    reasons say which rule it was. Every decision is `degraded`: a model should have answered.

    Args:
        domain: whose `policy.rules` these are.
    """

    def __init__(self, domain: Domain) -> None:
        self.rules = domain.policy.rules
        self.actions = domain.policy.actions

    def decide(self, events: Sequence[Any], late: bool = False) -> list[Decision]:
        """One decision an event, in order.

        Args:
            events: of the domain's schema.
            late: whether they have come too late for a model to say anything: it is the last of the reasons.
        """
        decisions = [self._one(event) for event in events]
        if late:
            for decision in decisions:
                decision.reasons.append(LATE)
        return decisions

    def _one(self, event: Any) -> Decision:
        rules, (harmless, review, block) = self.rules, self.actions
        value = getattr(event, rules.number)
        if value > rules.limit:
            return Decision(event.event_id, 1.0, block, [OVER_LIMIT], "", RULES, True)
        risk = min(max(rules.slope * value + rules.intercept, 0.0), 1.0)
        if risk > rules.threshold:
            return Decision(event.event_id, risk, review, [OVER_THRESHOLD], "", RULES, True)
        return Decision(event.event_id, risk, harmless, [], "", RULES, True)
