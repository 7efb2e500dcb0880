"""The same numbers everywhere: memory, one server, a cluster and the plain reference, over the same histories."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.valkey import Valkey, ValkeyCluster
from tests.features.every_feature import DOMAIN
from tests.features.reference import Reference
from tests.features.shared_stores import emptied, store_at
from vigil.domains.schema import Feedback
from vigil.errors import Unavailable
from vigil.features.memory.store import MemoryStore
from vigil.features.shared.store import SharedStore

HOUR = 3_600_000
START = 1_600_000_000_000
HISTORIES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

event = st.fixed_dictionaries(
    {
        "event_id": st.integers(0, 25).map(str),  # so that many come again
        "hours": st.one_of(st.integers(-9, 14), st.just(0), st.sampled_from([-200, 300])),  # late, ties, jumps
        "a": st.sampled_from(["x", "y"]),
        "b": st.one_of(st.sampled_from("pqr"), st.integers(0, 10**6).map(str)),  # some are seen once
        "amount": st.integers(1, 900).map(lambda cents: cents / 100),
    }
)
label = st.builds(Feedback, st.integers(0, 25).map(str), st.integers(0, 1))
# What comes, and which of two processes it comes to.
step = st.tuples(st.integers(0, 1), st.one_of(st.lists(event, min_size=1, max_size=7), st.lists(label, min_size=1)))


def at_their_times(steps: list[tuple[int, list[Any]]]) -> list[tuple[int, list[Any]]]:
    """The same steps, hours since the latest event before turned into times."""
    ts, timed = START, []
    for who, items in steps:
        made = []
        for item in items:
            if isinstance(item, dict):
                values = {name: value for name, value in item.items() if name != "hours"}
                values["ts"] = ts + item["hours"] * HOUR
                ts = max(ts, values["ts"])
                item = values
            made.append(item)
        timed.append((who, made))
    return timed


def same(memory: MemoryStore, others: list[list[SharedStore]], steps: list[tuple[int, list[Any]]]) -> None:
    """Whether all give the same bits at each step; the reference the same values."""
    reference = Reference(DOMAIN)
    for who, items in at_their_times(steps):
        if isinstance(items[0], Feedback):
            became = memory.feedback(items).tolist()
            assert [pair[who].feedback(items).tolist() for pair in others] == [became] * len(others)
            for item in items:
                reference.label(item.event_id, item.label)
            continue
        events = [memory.schema.make(values) for values in items]
        features, status = memory.apply_events(events)
        for pair in others:
            rows, became = pair[who].apply_events(events)
            assert became.tolist() == status.tolist()
            assert rows.tobytes() == features.tobytes()
        expected = np.array([reference.event(values) for values in items], np.float32)
        np.testing.assert_allclose(features, expected, rtol=2e-6, atol=1e-6)


@HISTORIES
@given(steps=st.lists(step, max_size=14))
def test_all_stores_give_the_same_bits_whatever_comes_to_whichever_process(
    valkey: Valkey, cluster: ValkeyCluster, steps: list[tuple[int, list[Any]]]
) -> None:
    """Repeats, late and far too late events, ties, labels before and after, single entities, jumps of the clock."""
    urls = [emptied(valkey), emptied(cluster)]
    others = [[store_at(url), store_at(url)] for url in urls]
    try:
        same(MemoryStore(DOMAIN), others, steps)
    finally:
        for pair in others:
            for store in pair:
                store.link.close()


@HISTORIES
@given(
    minutes=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=6), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 25), min_size=6, max_size=6),
    data=st.data(),
)
def test_a_write_cut_off_anywhere_is_completed_by_its_retry_and_counts_once(
    cluster: ValkeyCluster, minutes: list[list[int]], cuts: list[int], data: st.DataObject
) -> None:
    """Within the grace: an event retried later than that is as late as any other."""
    url, memory, ts, count = emptied(cluster), MemoryStore(DOMAIN), START, 0
    first, second = store_at(url), store_at(url)
    try:
        for batch, cut in zip(minutes, cuts, strict=False):
            events, ts = [], ts + 9 * HOUR
            for gap in batch:
                ts, count = ts + gap * HOUR // 60, count + 1
                drawn = data.draw(event)
                del drawn["hours"]
                events.append(memory.schema.make(drawn | {"event_id": count, "ts": ts}))
            first.link.after = cut
            with suppress(Unavailable):  # where it has fewer commands than that, it goes through
                first.apply_events(events)
            first.link.after = None
            features, _ = memory.apply_events(events)
            assert second.apply_events(events)[0].tobytes() == features.tobytes()
            assert first.apply_events(events)[0].tobytes() == features.tobytes()
    finally:
        first.link.close()
        second.link.close()
