"""Laws of decision records: what was decided can be read back to the last bit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from vigil import domains
from vigil.decisions.decision import Decision
from vigil.decisions.record import Record, encoded, features_of, spec_of

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
    lines = encoded(DOMAIN, "d" * 64, decisions, [msgspec.Raw(b"{}")] * len(risks), features)
    back = [msgspec.json.decode(line, type=Record) for line in lines]
    assert np.array([record.risk for record in back], np.float32).tobytes() == risks.tobytes()
    assert [record.risk for record in back] == risks.tolist()
    rows = [record.features for record in back if isinstance(record.features, bytes)]
    assert features_of(rows).tobytes() == features.tobytes()


def test_rows_of_any_layout_are_written_in_order() -> None:
    features = np.asfortranarray(np.arange(3 * WIDTH, dtype=np.float32).reshape(3, WIDTH))[::2]
    lines = encoded(DOMAIN, "", [decision(1, 0.0), decision(2, 0.0)], [msgspec.Raw(b"{}")] * 2, features)
    rows = [msgspec.json.decode(line, type=Record).features for line in lines]
    assert features_of([row for row in rows if isinstance(row, bytes)]).tolist() == features.tolist()


@pytest.mark.parametrize("event", [msgspec.Raw(b'{"event_id": 7,  "amount": 1.50}'), {"event_id": 7, "amount": 1.5}])
def test_a_record_says_who_decided_on_what(event: object) -> None:
    (line,) = encoded(DOMAIN, "d" * 64, [decision(7, 0.25)], [event], None)
    found = msgspec.json.decode(line)
    assert list(found)[:3] == ["event_id", "risk", "action"]
    assert found["event"] == {"event_id": 7, "amount": 1.5}
    assert (found["policy"], found["spec"]) == (DOMAIN.policy.version, spec_of(DOMAIN))
    assert "features" not in found
