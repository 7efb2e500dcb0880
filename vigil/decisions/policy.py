"""From the risks of a batch to decisions, by the domain's policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.decisions.decision import Decision
from vigil.domains.spec import Domain

FULL = "full"


class Decider:
    """Thresholds and reasons of one domain.

    Args:
        domain: whose policy decides.
    """

    def __init__(self, domain: Domain) -> None:
        self.policy = domain.policy
        columns = {name: i for i, name in enumerate(domain.feature_names)}
        self._reasons = [(reason, columns[reason.feature]) for reason in domain.policy.reasons]

    def decide(
        self, events: Sequence[Any], risks: Sequence[float], features: npt.NDArray[np.float32], model: str
    ) -> list[Decision]:
        """One decision an event, in order.

        Args:
            events: of the domain's schema.
            risks: calibrated probabilities, one an event.
            features: float32 [n, F], looked at for reasons only.
            model: tag of the model that gave the risks.
        """
        harmless, review, block = self.policy.actions
        review_at, block_at = self.policy.review_at, self.policy.block_at
        decisions = []
        for i, (event, risk) in enumerate(zip(events, risks, strict=True)):
            if risk < review_at:
                decisions.append(Decision(event.event_id, risk, harmless, [], model, FULL, False))
            else:
                action = block if risk >= block_at else review
                reasons = self.reasons(features[i])
                decisions.append(Decision(event.event_id, risk, action, reasons, model, FULL, False))
        return decisions

    def reasons(self, row: npt.NDArray[np.float32]) -> list[str]:
        """Codes of the policy's reasons that hold for one feature row, in the policy's order."""
        return [
            reason.code
            for reason, column in self._reasons
            if (reason.above is not None and row[column] > reason.above)
            or (reason.below is not None and row[column] < reason.below)
        ]
