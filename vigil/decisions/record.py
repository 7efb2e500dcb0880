"""The replayable row of one decision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vigil.decisions.decision import Decision
from vigil.domains.spec import Domain

FLOAT = np.dtype("<f4")


class Record(msgspec.Struct, omit_defaults=False, gc=False):
    """A decision, the event it was made on, and who made it: enough to make it again, to the last bit.

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
        spec: version of the feature spec.
        event: the event's JSON, as it came.
        features: little-endian float32 in the order of the domain's features (in JSON: base64), left out where there
            were none or they were not wanted.
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
    spec: str
    event: msgspec.Raw
    features: bytes | msgspec.UnsetType = msgspec.UNSET


def spec_of(domain: Domain) -> str:
    """Twelve hex digits that change with anything that decides a feature's value."""
    return domain.spec_hash[:12]


def encoded(
    domain: Domain,
    digest: str,
    decisions: Sequence[Decision],
    events: Iterable[Any],
    features: npt.NDArray[np.float32] | None,
) -> list[bytes]:
    """Records of a batch of decisions, JSON.

    Args:
        domain: whose events they are.
        digest: of the model that answered, "" for the rules tier.
        decisions: of one model or tier.
        events: each decision's event: its JSON as `msgspec.Raw`, or of the domain's schema.
        features: float32 [n, F], or None to leave them out.
    """
    encode = msgspec.json.Encoder().encode
    rows: Sequence[Any] = [msgspec.UNSET] * len(decisions) if features is None else bytes_of(features)
    name, policy, spec = domain.name, domain.policy.version, spec_of(domain)
    return [
        encode(
            Record(
                d.event_id, d.risk, d.action, d.reasons, d.tier, d.degraded,
                name, d.model, digest, policy, spec, event, row,
            )
        )
        for d, event, row in zip(decisions, events, rows, strict=True)
    ]  # fmt: skip


def bytes_of(features: npt.NDArray[np.float32]) -> list[bytes]:
    """Each row of float32 [n, F] as a record holds it."""
    rows = np.ascontiguousarray(features, FLOAT)
    whole: list[bytes] = rows.view(f"V{rows.shape[1] * FLOAT.itemsize}").ravel().tolist()
    return whole


def features_of(rows: Sequence[bytes]) -> npt.NDArray[np.float32]:
    """float32 [n, F] from the features of n records, n >= 1, of one spec."""
    return np.frombuffer(b"".join(rows), FLOAT).reshape(len(rows), -1)
