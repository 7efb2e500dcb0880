"""Laws of decision records: what was decided can be read back to the last bit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from vigil import domains
from vigil.decisions.decision import Decision
from vigil.decisions.record import Record, encode_records, features_of, spec_of

DOMAIN = domains.load("payments")
WIDTH = len(DOMAIN.features)


def decision(event_id: str | int, risk: float) -> Decision:
    return Decision(event_id, risk, "approve", [], "payments:1", "full", False)


def test_risks_and_features_come_back_to_the_last_bit() -> None:
    random = np.random.default_rng(3)
    risks = np.concatenate([random.random(500, np.float32), np.float32([0, 1, 1e-45, 1e-38, 0.1])])
    features = random.integers(0, 1 << 31, (len(risks), WIDTH), np.uint32).view(np.float32)
    features[~np.isfinite(features)] = -0.0
    decisions = [decision(i, risk) for i, risk in enumerate(risks.tolist())]
    lines = encode_records(DOMAIN, "d" * 64, decisions, [b"{}"] * len(risks), features)
    back = [msgspec.json.decode(line, type=Record) for line in lines]
    assert np.array([record.risk for record in back], np.float32).tobytes() == risks.tobytes()
    assert [record.risk for record in back] == risks.tolist()
    rows = [record.features for record in back if isinstance(record.features, bytes)]
    assert features_of(rows).tobytes() == features.tobytes()


def test_rows_of_any_layout_are_written_in_order() -> None:
    features = np.asfortranarray(np.arange(3 * WIDTH, dtype=np.float32).reshape(3, WIDTH))[::2]
    lines = encode_records(DOMAIN, "", [decision(1, 0.0), decision(2, 0.0)], [b"{}"] * 2, features)
    rows = [msgspec.json.decode(line, type=Record).features for line in lines]
    assert features_of([row for row in rows if isinstance(row, bytes)]).tolist() == features.tolist()


@pytest.mark.parametrize("with_features", [True, False])
def test_a_batch_of_records_is_each_of_them_encoded_by_itself(with_features: bool) -> None:
    decisions = [
        Decision(event_id, risk, action, reasons, "payments:1", "full", False)
        for event_id in (7, "7", 'a "quoted"\n\\ ü', -(1 << 62))
        for risk in (0.0, 1.0, 1e-45, 0.1)
        for action, reasons in (
            ("approve", []),
            ("review", ["b", "a"]),
            ("review", []),
            ("block", ["a"]),
            ("approve", []),
        )
    ]
    event, features = (
        b'{"event_id": 7,  "amount": 1.50}',
        np.arange(len(decisions) * WIDTH, dtype="f4").reshape(-1, WIDTH),
    )
    lines = encode_records(DOMAIN, "d" * 64, decisions, [event] * len(decisions), features if with_features else None)
    for line, d, row in zip(lines, decisions, features, strict=True):
        what = (d.event_id, d.risk, d.action, d.reasons, d.tier, d.degraded, DOMAIN.name, d.model, "d" * 64)
        alone = Record(*what, DOMAIN.policy.version, spec_of(DOMAIN), msgspec.Raw(event))
        if with_features:
            alone.features = row.tobytes()
        assert line == msgspec.json.encode(alone)


def test_a_record_says_who_decided_on_what() -> None:
    (line,) = encode_records(DOMAIN, "d" * 64, [decision(7, 0.25)], [b'{"event_id": 7,  "amount": 1.50}'], None)
    found = msgspec.json.decode(line)
    assert list(found)[:3] == ["event_id", "risk", "action"]
    assert found["event"] == {"event_id": 7, "amount": 1.5}
    assert (found["policy"], found["spec"]) == (DOMAIN.policy.version, spec_of(DOMAIN))
    assert "features" not in found
