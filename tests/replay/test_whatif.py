"""Laws of deciding records anew: every record is in the table once, and the costs are those of the policy."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.replay.conftest import DOMAIN, EVENTS, Recorded, decided, events
from vigil.decisions.record import features_of
from vigil.errors import DataError
from vigil.replay import run
from vigil.replay.sources import labels
from vigil.replay.whatif import WhatIf
from vigil.scoring.session import Session

POLICY = DOMAIN.policy


def decide(recorded: Recorded, version: str, truth: dict[str, int], lines: list[bytes] | None = None) -> WhatIf:
    what_if = WhatIf(DOMAIN, Session.load(DOMAIN, version, 1024), truth)
    lines = recorded.lines if lines is None else lines
    for start in range(0, len(lines), 700):
        what_if.add(lines[start : start + 700])
    return what_if


def action(risk: float) -> str:
    return POLICY.actions[(risk >= POLICY.review_at) + (risk >= POLICY.block_at)]


def cost(chosen: str, label: int, amount: float) -> float:
    """As the policy's fields say, written down once more."""
    if chosen == "approve":
        return amount * label
    return POLICY.review_cost if chosen == "review" else POLICY.block_cost * (1 - label)


def test_the_same_model_changes_nothing_and_costs_the_same(recorded: Recorded) -> None:
    outcome = decide(recorded, recorded.versions[0], {f"e{i}": i % 3 == 0 for i in range(100)}).outcome
    assert (outcome.changed, outcome.actions.total(), outcome.labelled) == (0, EVENTS, 100)
    assert outcome.before == outcome.now
    assert outcome.first == []


def test_another_model_gives_the_table_and_the_costs_of_its_risks(recorded: Recorded) -> None:
    random = np.random.default_rng(4)
    truth = {f"e{i}": int(random.random() < 0.2) for i in range(0, EVENTS, 2)}
    outcome = decide(recorded, recorded.versions[1], truth).outcome
    before = [json.loads(line) for line in recorded.lines]
    rows = features_of([b64decode(each["features"]) for each in before])
    risks = Session.load(DOMAIN, recorded.versions[1], 1024).run(rows).tolist()
    pairs = [(each["action"], action(risk)) for each, risk in zip(before, risks, strict=True)]
    assert outcome.actions == Counter(pairs)
    assert len(outcome.actions) > 2
    assert outcome.changed == sum(was != now for was, now in pairs)
    for side, place in ((outcome.before, 0), (outcome.now, 1)):
        wanted = [
            cost(pair[place], truth[each["event_id"]], each["event"]["amount"])
            for pair, each in zip(pairs, before, strict=True)
            if each["event_id"] in truth
        ]
        assert side.spent == pytest.approx(sum(wanted))
        assert side.caught + side.missed == sum(truth.values())
    shifts = [abs(each.now.risk - each.record.risk) for each in outcome.first]
    assert shifts == sorted(shifts, reverse=True)


def test_decisions_of_the_rules_tier_are_decided_by_the_model(recorded: Recorded) -> None:
    lines = decided(None, events(50))
    outcome = decide(recorded, recorded.versions[1], {}, lines).outcome
    assert outcome.actions.total() == 50
    bare = decided(None, events(50), with_features=False)
    assert decide(recorded, recorded.versions[1], {}, bare).outcome.left_out == {"without features": 50}


def test_an_event_recorded_twice_costs_once(recorded: Recorded) -> None:
    outcome = decide(recorded, recorded.versions[1], {"e0": 1}, recorded.lines[:1] * 2).outcome
    assert (outcome.actions.total(), outcome.labelled) == (2, 1)


def test_the_report_says_what_changes_and_what_it_costs(recorded: Recorded, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"\n".join(recorded.lines))
    marks = [{"event_id": f"e{i}", "label": i % 5 == 0} for i in range(EVENTS)]
    text = "\n".join(json.dumps(mark | {"label": int(mark["label"])}) for mark in marks)
    (tmp_path / "labels.jsonl").write_text(text)
    console = Console(width=160, record=True, force_terminal=False)
    out = tmp_path / "changed.jsonl"
    run.what_if(DOMAIN, str(tmp_path / "records.jsonl"), "champion", str(tmp_path / "labels.jsonl"), out, console)
    said = console.export_text()
    changed = [json.loads(line) for line in out.read_text().splitlines()]
    assert changed
    assert all(each["before"]["action"] != each["now"]["action"] for each in changed)
    assert f"{len(changed):,} of {EVENTS:,} decisions would be others with payments:{recorded.versions[1]}" in said
    for part in ("Actions: before, and now", f"{EVENTS:,} labelled events", "amount lost, EUR", "cost in all, EUR"):
        assert part in said


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("{}", "label 2: Object missing required field"),
        ('{"event_id": 1, "label": 2}', "label 2: got 2, wanted 0 or 1"),
    ],
)
def test_a_label_that_is_none_is_named(tmp_path: Path, line: str, wanted: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"event_id": 1, "label": 0}\n' + line)
    with pytest.raises(DataError, match=wanted):
        labels(str(path))


def test_of_an_event_labelled_twice_the_last_label_counts(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"event_id": 1, "label": 0}\n{"event_id": "1", "label": 1}\n{"event_id": "b", "label": 1}')
    assert labels(str(path)) == {"1": 1, "b": 1}
