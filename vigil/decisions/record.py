"""The replayable row of one decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from vigil.decisions.decision import Decision


class Record(msgspec.Struct, omit_defaults=False, gc=False):
    """A decision, the event it was made on, and who made it.

    Args:
        event_id: as it came.
        risk: calibrated probability in [0, 1].
        action: one of the domain's `policy.actions`.
        reasons: codes, strongest first; none for the harmless action.
        tier: "full" or "rules".
        degraded: whether a better tier should have answered and could not.
        domain: whose event it is.
        model: tag of the model that answered, "" for the rules tier.
        digest: SHA-256 of the model's file, "" for the rules tier.
        policy: version of the policy.
        event: the event's JSON, as it came.
        features: float32 values in the order of the domain's features, only where asked for.
    """

    event_id: str | int
    risk: float
    action: str
    reasons: list[str]
    tier: str
    degraded: bool
    domain: str
    model: str
    digest: str
    policy: str
    event: msgspec.Raw
    features: list[float] | msgspec.UnsetType = msgspec.UNSET


def encoded(
    domain: str,
    policy: str,
    digest: str,
    decisions: Sequence[Decision],
    events: Sequence[bytes],
    features: Sequence[list[float]] | None = None,
) -> list[bytes]:
    """Records of a batch of decisions, JSON.

    Args:
        domain: name of the domain.
        policy: version of its policy.
        digest: of the model that answered, "" for the rules tier.
        decisions: of one model or tier.
        events: each decision's event as JSON.
        features: each decision's feature row, or None to leave them out.
    """
    encode, raw = msgspec.json.Encoder().encode, msgspec.Raw
    unset: Any = msgspec.UNSET
    rows: Any = features if features is not None else [unset] * len(decisions)
    return [
        encode(
            Record(
                d.event_id, d.risk, d.action, d.reasons, d.tier, d.degraded,
                domain, d.model, digest, policy, raw(event), row,
            )
        )
        for d, event, row in zip(decisions, events, rows, strict=True)
    ]  # fmt: skip
