"""Which candidate wins: the fastest of those inside the quality budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimize.candidates import Measured
from vigil.errors import ConfigError, ModelRefused

# Closer than this is noise: the earlier candidate, which changes less, is taken.
_NOISE = 0.03


@dataclass(frozen=True)
class Budget:
    """What a candidate may cost, against the Keras model.

    Args:
        ap: average precision that may be lost, exclusive, on validation.
        risk: largest difference of any risk, exclusive.
    """

    ap: float = 0.002
    risk: float = 1e-3

    def __post_init__(self) -> None:
        for name, value in (("--budget-ap", self.ap), ("--budget-risk", self.risk)):
            if not 0 < value <= 1:
                raise ConfigError(f"{name}: got {value:g}, wanted a number above 0 and up to 1")

    def broken(self, candidate: Measured) -> str:
        """What the candidate is over, or "" where it may win.

        `over: batch`: a risk depends on the batch it comes in; `over: AP`, `over: risk`: more than the budget.
        """
        if candidate.dependence_padded > 0:
            return "over: batch"
        if not candidate.ap_lost_valid < self.ap:
            return "over: AP"
        if not candidate.difference < self.risk:
            return "over: risk"
        return ""


def choose(candidates: Sequence[Measured], budget: Budget) -> Measured:
    """The fastest within `budget`; of those that are as fast within 3%, the first.

    Raises:
        ModelRefused: where none is within it, with what each costs.
    """
    within = [candidate for candidate in candidates if not budget.broken(candidate)]
    if not within:
        costs = "; ".join(f"{c.name}: AP {c.ap_lost_valid:+.5f}, risk {c.difference:.2g}" for c in candidates)
        raise ModelRefused(f"no candidate is within AP lost < {budget.ap:g} and risk < {budget.risk:g}: {costs}")
    fastest = min(candidate.microseconds for candidate in within)
    return next(candidate for candidate in within if candidate.microseconds <= fastest * (1 + _NOISE))
