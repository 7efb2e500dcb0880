"""The replayable row of one decision."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from vigil.decisions.decision import Decision
from vigil.domains.spec import Domain

FLOAT = np.dtype("<f4")
_ID, _RISK = b'{"event_id":', b',"risk":'
_BLANK = _ID + b"0" + _RISK + b"0.0"
_encode = msgspec.json.Encoder().encode


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


def encode_records(
    domain: Domain,
    digest: str,
    decisions: Sequence[Decision],
    events: Iterable[bytes],
    features: npt.NDArray[np.float32] | None,
) -> list[bytes]:
    """Records of a batch of decisions: each what a `Record` is in JSON.

    Args:
        domain: whose events they are.
        digest: of the model that answered, "" for the rules tier.
        decisions: of one model or tier.
        events: each decision's event, JSON.
        features: float32 [n, F], or None to leave them out.
    """
    encode, join = _encode, b"".join
    rows, begin, end = [b""] * len(decisions), b"", b"}"
    if features is not None:
        rows, begin, end = bytes_of(features), b',"features":"', b'"}'
    records, known = [], dict[str, bytes]()  # known: middles, by an action without reasons
    for d, event, row in zip(decisions, events, rows, strict=True):
        middle = None if d.reasons else known.get(d.action)
        if middle is None:
            middle = _middle(domain, digest, d)
            if not d.reasons:
                known[d.action] = middle
        base64 = b2a_base64(row, newline=False)
        records.append(join((_ID, encode(d.event_id), _RISK, encode(d.risk), middle, event, begin, base64, end)))
    return records


def _middle(domain: Domain, digest: str, d: Decision) -> bytes:
    """What stands between risk and event: mostly the same in a batch, and most of the time of encoding a Record."""
    policy, spec, nothing = domain.policy.version, spec_of(domain), msgspec.Raw(b"")
    blank = Record(
        0, 0.0, d.action, d.reasons, d.tier, d.degraded, domain.name, d.model, digest, policy, spec, nothing,
    )  # fmt: skip
    return _encode(blank).removeprefix(_BLANK)[:-1]


def bytes_of(features: npt.NDArray[np.float32]) -> list[bytes]:
    """Each row of float32 [n, F] as a record holds it."""
    rows = np.ascontiguousarray(features, FLOAT)
    whole: list[bytes] = rows.view(f"V{rows.shape[1] * FLOAT.itemsize}").ravel().tolist()
    return whole


def features_of(rows: Sequence[bytes]) -> npt.NDArray[np.float32]:
    """float32 [n, F] from the features of n records, n >= 1, of one spec."""
    return np.frombuffer(b"".join(rows), FLOAT).reshape(len(rows), -1)
