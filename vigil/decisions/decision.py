"""What a caller gets for an event."""

from __future__ import annotations

import msgspec


class Decision(msgspec.Struct, gc=False):
    """An action for one event, and why.

    Args:
        event_id: as it came.
        risk: calibrated probability in [0, 1].
        action: one of the domain's `policy.actions`.
        reasons: codes, strongest first; none for the harmless action.
        model: tag of the model that answered, "" for the rules tier.
        tier: "full" or "rules".
        degraded: whether a better tier should have answered and could not.
        features: values by name, only where the caller asked for them.
    """

    event_id: str | int
    risk: float
    action: str
    reasons: list[str]
    model: str
    tier: str
    degraded: bool
    features: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
