"""Laws of the feature kernel, held against the plain reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features.every_feature import DOMAIN
from tests.features.reference import Reference
from vigil.domains import load
from vigil.domains.schema import Feedback, key_of
from vigil.domains.spec import DAY_MS
from vigil.errors import InvalidEvent
from vigil.features.compiled import layout
from vigil.features.memory.store import FEW, MemoryStore

HOUR = 3_600_000
START = 1_600_000_000_000

event = st.builds(
    lambda i, hours, a, b, cents: {"event_id": i, "hours": hours, "a": a, "b": b, "amount": cents / 100},
    st.integers(0, 25).map(str),
    st.integers(-9, 14),
    st.sampled_from("xy"),
    st.sampled_from("pqr"),
    st.integers(1, 900),
)
label = st.tuples(st.integers(0, 25).map(str), st.integers(0, 1))


def payment(i: int, ts: int, a: str = "x", b: str = "p", amount: float = 1.0) -> dict[str, Any]:
    return {"event_id": f"e{i}", "ts": ts, "a": a, "b": b, "amount": amount}


def applied(store: MemoryStore, *events: dict[str, Any]) -> tuple[list[list[float]], list[int]]:
    rows, status = store.apply_events([store.schema.make(values) for values in events])
    return rows.tolist(), status.tolist()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(event, label), max_size=60))
def test_every_feature_equals_its_definition_whatever_comes(steps: list[Any]) -> None:
    """Repeats, late and far too late events, ties, labels before and after their event, labels that change."""
    store, reference, ts = MemoryStore(DOMAIN), Reference(DOMAIN), START
    came = dict[str, dict[str, Any]]()
    for step in steps:
        if isinstance(step, tuple):
            store.feedback([Feedback(*step)])
            reference.label(*step)
            continue
        hours = step.pop("hours") if "hours" in step else 0
        values = step | {"ts": ts + hours * HOUR}
        first = came.setdefault(values["event_id"], values)
        if hours % 2:  # the same again, else what may be another content
            values = first
        ts = max(ts, values["ts"])
        expected = np.array(reference.event(values), np.float32)
        rows, status = store.apply_events([store.schema.make(values)])
        assert (status[0] == layout.CONFLICT) == (values != first)
        np.testing.assert_allclose(rows[0], expected, rtol=2e-6, atol=1e-6, err_msg=str(DOMAIN.feature_names))


def test_what_has_been_forgotten_by_its_id_is_a_conflict_where_its_entities_still_hold_it() -> None:
    store = MemoryStore(replace(DOMAIN, most_remembered=1 << 12, most_repeats=1 << 12))
    applied(store, payment(0, START), *[payment(i, START + 1 + i, a="y", b="q") for i in range(1, 6000)])
    assert applied(store, payment(0, START))[1] == [layout.RECOMPUTED]
    store = MemoryStore(replace(DOMAIN, most_remembered=1 << 12, most_repeats=1 << 12))
    applied(store, payment(0, START), *[payment(i, START + 1 + i, a="y", b="q") for i in range(1, 6000)])
    assert applied(store, payment(0, START, amount=90_000.0))[1] == [layout.CONFLICT]


def test_two_ids_that_meet_in_an_unkeyed_hash_are_two_events() -> None:
    store = MemoryStore(DOMAIN)
    assert len({MemoryStore(DOMAIN).seed for _ in range(20)}) == 20
    assert store.schema.row(store.schema.make(payment(1, START)))[0][0] == key_of("e1", store.seed)


@settings(max_examples=60, deadline=None)
@given(st.lists(event, min_size=1, max_size=40), st.data())
def test_events_alone_and_in_batches_get_the_same_bits(events: list[dict[str, Any]], data: st.DataObject) -> None:
    made = [e | {"ts": START + i * HOUR + e.pop("hours", 0) * HOUR} for i, e in enumerate(map(dict, events))]
    alone, together = MemoryStore(DOMAIN), MemoryStore(DOMAIN)
    one_by_one = np.vstack([alone.apply_events([alone.schema.make(e)])[0] for e in made])
    cut = data.draw(st.integers(0, len(made)))
    parts = [part for part in (made[:cut], made[cut:]) if part]
    batches = np.vstack([together.apply_events([together.schema.make(e) for e in part])[0] for part in parts])
    assert one_by_one.tobytes() == batches.tobytes()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["x", "5", 5, 6]), st.sampled_from("pq")), min_size=FEW))
def test_many_events_are_packed_as_they_would_be_one_by_one(values: list[Any]) -> None:
    """Keys seen before and not, and integers among strings."""
    alone, together = MemoryStore(DOMAIN), MemoryStore(DOMAIN)
    together.seed = alone.seed
    made = [alone.schema.struct(event_id=i, ts=START + i, a=a, b=b, amount=1.5) for i, a, b in values]
    one_by_one = [alone.pack([event])[0].tolist() for event in made]
    assert together.pack(made).tolist() == one_by_one
    assert together.rows == alone.rows


def test_a_batch_with_a_bad_event_leaves_no_entity_behind() -> None:
    store = MemoryStore(DOMAIN)
    events = [store.schema.make(payment(i, START + i, a=f"a{i}")) for i in range(2 * FEW)]
    events[-1].b = "x" * 129
    with pytest.raises(InvalidEvent, match="b: got"):
        store.pack(events)
    assert store.count == 0


def test_a_repeated_event_gets_the_same_features_and_counts_nothing() -> None:
    store = MemoryStore(DOMAIN)
    first, _ = applied(store, payment(1, START), payment(2, START + HOUR))
    again, status = applied(store, payment(1, START), payment(2, START + HOUR))
    assert again == first
    assert status == [layout.REPEAT, layout.REPEAT]
    untouched = MemoryStore(DOMAIN)
    applied(untouched, payment(1, START), payment(2, START + HOUR))
    assert applied(store, payment(3, START + 2 * HOUR)) == applied(untouched, payment(3, START + 2 * HOUR))


def test_an_event_late_within_the_grace_sees_what_it_would_have_seen_in_time() -> None:
    in_time, late = MemoryStore(DOMAIN), MemoryStore(DOMAIN)
    events = [payment(i, START + i * HOUR, amount=1.0 + i) for i in range(6)]
    applied(in_time, *events[:3])
    expected, _ = applied(in_time, events[3])
    applied(late, *events[:3], *events[4:])
    rows, status = applied(late, events[3])
    assert rows == expected
    assert status == [layout.LATE]
    applied(in_time, *events[4:])
    assert applied(late, payment(9, START + 9 * HOUR))[0] == applied(in_time, payment(9, START + 9 * HOUR))[0]


def test_an_event_beyond_the_grace_is_answered_and_does_not_count() -> None:
    store, without = MemoryStore(DOMAIN), MemoryStore(DOMAIN)
    applied(store, payment(1, START))
    applied(without, payment(1, START))
    rows, status = applied(store, payment(2, START - DAY_MS))
    assert status == [layout.TOO_LATE]
    assert np.isfinite(rows).all()
    assert applied(store, payment(3, START + HOUR)) == applied(without, payment(3, START + HOUR))


def test_a_label_counts_whether_it_comes_before_or_after_its_event() -> None:
    before, after = MemoryStore(DOMAIN), MemoryStore(DOMAIN)
    assert before.feedback([Feedback("e1", 1)]).tolist() == [layout.LABEL_WAITS]
    applied(before, payment(1, START))
    applied(after, payment(1, START))
    assert after.feedback([Feedback("e1", 1)]).tolist() == [layout.LABELLED]
    assert after.feedback([Feedback("e1", 1)]).tolist() == [layout.LABEL_KNOWN]
    later = payment(2, START + 2 * DAY_MS)
    rows, _ = applied(before, later)
    assert rows == applied(after, later)[0]
    unlabelled = MemoryStore(DOMAIN)
    applied(unlabelled, payment(1, START))
    assert rows != applied(unlabelled, later)[0]


def test_no_feature_changes_with_labels_younger_than_the_label_delay() -> None:
    domain = load("payments")
    with_labels, without = MemoryStore(domain), MemoryStore(domain)
    rng = np.random.default_rng(5)
    for i in range(400):
        ts = START + i * 25 * 60_000  # in all just under a week
        values = {
            "event_id": i,
            "ts": ts,
            "customer": int(rng.integers(5)),
            "terminal": int(rng.integers(5)),
            "amount": 9.5,
        }
        a, _ = with_labels.apply_events([with_labels.schema.make(values)])
        b, _ = without.apply_events([without.schema.make(values)])
        assert a.tobytes() == b.tobytes()
        with_labels.feedback([Feedback(i, int(rng.integers(2)))])


def test_a_hot_entity_keeps_its_newest_records_only_and_goes_on() -> None:
    store = MemoryStore(DOMAIN)
    most = DOMAIN.entities[0].most_records
    rows, _ = store.apply_events([store.schema.make(payment(i, START + i, b=f"p{i}")) for i in range(most + 500)])
    count = DOMAIN.feature_names.index(next(f.name for f in DOMAIN.features if f.op == "COUNT"))
    assert rows[:, count].max() == most + 1
    assert store.state.counts(np.array([store.rows[0]["x"]])).tolist() == [most]


def test_what_is_remembered_of_events_is_bounded_and_the_newest_are_kept() -> None:
    domain = replace(DOMAIN, most_remembered=1 << 13, most_repeats=1 << 12)
    store = MemoryStore(domain)
    first = payment(0, START)
    _, status = applied(store, first, *(payment(i, START + i) for i in range(1, 6000)))
    assert set(status) == {layout.NEW}
    assert applied(store, payment(5999, START + 5999))[1] == [layout.REPEAT]
    assert applied(store, first)[1] == [layout.RECOMPUTED]  # too long ago for its features, not for its label
    assert store.feedback([Feedback("e0", 1)]).tolist() == [layout.LABELLED]
    applied(store, *(payment(i, START + i) for i in range(6000, 12_000)))
    assert store.state.remembered == 1 << 13
    assert sum(len(event.features) > 0 for event in store.state.events()) == 1 << 12
    assert store.feedback([Feedback("e11999", 1), Feedback("e1", 1)]).tolist() == [
        layout.LABELLED,
        layout.LABEL_WAITS,
    ]


def test_state_grows_and_reuses_room_under_many_entities_and_months() -> None:
    rng = np.random.default_rng(7)
    store, reference = MemoryStore(DOMAIN), Reference(DOMAIN)
    ts = START
    for i in range(3000):
        ts += int(rng.integers(1, 3 * HOUR))
        values = payment(i, ts, f"c{rng.integers(40)}", f"t{rng.integers(60)}", float(rng.integers(1, 500)) / 4)
        rows, _ = store.apply_events([store.schema.make(values)])
        expected = reference.event(values)
        if i % 7 == 0:
            np.testing.assert_allclose(rows[0], np.array(expected, np.float32), rtol=2e-6, atol=1e-6)
        if rng.random() < 0.2:
            store.feedback([Feedback(f"e{i}", 1)])
            reference.label(f"e{i}", 1)


@pytest.mark.parametrize("name", ["payments"])
def test_features_are_finite_for_a_shipped_domain(name: str) -> None:
    domain = load(name)
    store = MemoryStore(domain)
    rows, _ = store.apply_events([store.schema.make(domain.example)])
    assert rows.shape == (1, len(domain.features))
    assert np.isfinite(rows).all()
