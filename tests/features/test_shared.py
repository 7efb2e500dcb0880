"""Laws of the shared store, with real servers and real processes' worth of writers."""

from __future__ import annotations

import random
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from loadtest.valkey import Valkey, ValkeyCluster
from tests.features.every_feature import DOMAIN
from tests.features.shared_stores import emptied, records, store_at
from vigil.domains.schema import Feedback
from vigil.domains.spec import DAY_MS
from vigil.errors import ConfigError, Unavailable
from vigil.features import kernel
from vigil.features.link import Link
from vigil.features.shared import SharedStore
from vigil.features.store import MemoryStore

HOUR = 3_600_000
START = 1_600_000_000_000
A, B = ("x", "y"), ("p", "q", "r")


@pytest.fixture(params=["valkey", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    servers: Valkey | ValkeyCluster = request.getfixturevalue(request.param)
    return emptied(servers)


def event(i: int, ts: int, a: str = "x", b: str = "p", amount: float = 1.0) -> Any:
    return MemoryStore(DOMAIN).schema.make({"event_id": f"e{i}", "ts": ts, "a": a, "b": b, "amount": amount})


def many(count: int, seed: int, step_ms: int = 60_000) -> list[Any]:
    rng = random.Random(seed)
    schema = MemoryStore(DOMAIN).schema
    return [
        schema.make(
            {
                "event_id": f"e{i}",
                "ts": START + i * step_ms,
                "a": rng.choice(A),
                "b": rng.choice(B),
                "amount": rng.randint(1, 900) / 100,
            }
        )
        for i in range(count)
    ]


def test_writers_at_the_same_time_lose_no_event_and_count_none_twice(url: str) -> None:
    """Two take half of the events each, a third takes all of them: every event comes to two at about one time."""
    events, failures = many(400, 3), []
    parts = [(events[:200], 7), (events[200:], 5), (events, 11)]
    together = threading.Barrier(len(parts))

    def write(part: list[Any], size: int) -> None:
        store = store_at(url)
        try:
            together.wait()
            for at in range(0, len(part), size):
                store.apply(part[at : at + size])
                store.feedback([Feedback(item.event_id, 1) for item in part[at : at + size : 3]])
        except Exception as failure:
            failures.append(failure)
        finally:
            store.link.close()

    threads = [threading.Thread(target=write, args=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    alone, store = MemoryStore(DOMAIN), store_at(url)
    alone.apply(events)
    labelled = {item.event_id for part, size in parts for at in range(0, len(part), size)
                for item in part[at : at + size : 3]}  # fmt: skip
    alone.feedback([Feedback(event_id, 1) for event_id in labelled])
    for entity, keys in enumerate((A, B)):
        for key in keys:
            assert records(store, entity, key) == records(alone, entity, key)
    assert set(store.apply(events)[1].tolist()) == {kernel.REPEAT}
    store.link.close()


def test_large_batches_on_the_same_few_entities_get_through_beside_each_other(url: str) -> None:
    events, failures = many(3000, 12, step_ms=1000), []

    def write(part: list[Any]) -> None:
        store = store_at(url)
        try:
            for at in range(0, len(part), 500):
                store.apply(part[at : at + 500])
        except Exception as failure:
            failures.append(failure)
        finally:
            store.link.close()

    threads = [threading.Thread(target=write, args=(events[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    alone, store = MemoryStore(DOMAIN), store_at(url)
    alone.apply(events)
    for entity, keys in enumerate((A, B)):
        for key in keys:
            assert records(store, entity, key) == records(alone, entity, key)
    store.link.close()


def test_all_who_ask_for_one_event_get_one_answer(url: str) -> None:
    events, answers = many(40, 4), {}

    def write(name: int) -> None:
        store = store_at(url)
        answers[name] = store.apply(events)[0].tobytes()
        store.link.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers.values())) == 1


def test_a_batch_is_one_round_trip_where_its_entities_were_used_before(valkey: Valkey) -> None:
    store = store_at(emptied(valkey))
    store.apply(many(50, 5))
    before = store.link.round_trips
    store.apply([event(1000 + i, START + 10 * HOUR + i) for i in range(50)])
    assert store.link.round_trips == before + 1
    store.link.close()


def test_an_answer_that_got_lost_is_given_by_the_retry(url: str) -> None:
    store, memory = store_at(url), MemoryStore(DOMAIN)
    first = many(5, 6)
    expected, _ = memory.apply(first)
    store.apply(first)  # nobody took the answer
    again = store_at(url)
    assert again.apply(first)[0].tobytes() == expected.tobytes()
    later = [event(99, START + DAY_MS)]
    assert again.apply(later)[0].tobytes() == memory.apply(later)[0].tobytes()
    for opened in (store, again):
        opened.link.close()


def test_a_log_is_written_anew_without_what_no_window_sees_and_bounded_by_most_records(valkey: Valkey) -> None:
    small = replace(DOMAIN, entities=(replace(DOMAIN.entities[0], most_records=40), DOMAIN.entities[1]))
    url, memory = emptied(valkey), MemoryStore(small)
    store = store_at(url, small)
    rng, ts = random.Random(7), START
    for i in range(600):
        ts += rng.randint(0, HOUR)
        item = [event(i, ts, "x", rng.choice(B))]
        assert store.apply(item)[0].tobytes() == memory.apply(item)[0].tobytes()
        if i % 50 == 0:
            store = store_at(url, small)  # a process that knows nothing yet
    with valkey.client() as client:
        sizes = {key: client.strlen(key) for key in client.scan_iter(b"*}0:x")}
    assert len(sizes) == 1
    assert max(sizes.values()) <= (2 * 40 + 17) * 8 * (int(store._loaded.widths[0]) + 1)


def test_what_is_not_used_any_more_expires(valkey: Valkey) -> None:
    store = store_at(emptied(valkey))
    store.apply(many(10, 8))
    store.feedback([Feedback("later", 1), Feedback("e1", 1)])
    keep_s = max(DOMAIN.keep_days(entity.name) for entity in DOMAIN.entities) * 86_400
    with valkey.client() as client:
        lives = {key: client.ttl(key) for key in client.scan_iter()}
    assert len(lives) == 10 + 1 + len(A) + len(B)
    for key, seconds in lives.items():
        least = DOMAIN.feedback_days * 86_400 if b"}e:" in key else keep_s
        assert least - 60 <= seconds <= 2 * least + 2 * 86_400
    store.link.close()


def test_domains_and_feature_specs_do_not_meet_on_one_server(valkey: Valkey) -> None:
    url = emptied(valkey)
    one, other = store_at(url), store_at(url, replace(DOMAIN, grace_days=0.25))
    events = many(20, 9)
    one.apply(events)
    assert set(other.apply(events)[1].tolist()) == {kernel.NEW}
    for opened in (one, other):
        opened.link.close()


def test_a_server_that_hangs_is_waited_for_once_and_then_refused_at_once_until_it_is_back() -> None:
    with Valkey() as server:
        store = SharedStore(DOMAIN, Link(server.url, 200), 200)
        memory = MemoryStore(DOMAIN)
        events = many(30, 10)
        assert store.apply(events[:10])[0].tobytes() == memory.apply(events[:10])[0].tobytes()
        server.stop(signal.SIGSTOP)
        started_s = time.monotonic()
        with pytest.raises(Unavailable, match="is away"):
            store.apply(events[10:20])
        waited_s = time.monotonic() - started_s
        started_s = time.monotonic()
        for _ in range(100):
            with pytest.raises(Unavailable):
                store.apply(events[10:20])
        with pytest.raises(Unavailable):
            store.feedback([Feedback("e1", 1)])
        refused_s = time.monotonic() - started_s
        assert store.problem
        server.resume()
        until_s = time.monotonic() + 10
        while store.problem and time.monotonic() < until_s:
            time.sleep(0.01)
        # What was on its way when it hung may have counted; the retry completes it all the same.
        assert store.apply(events[10:])[0].tobytes() == memory.apply(events[10:])[0].tobytes()
        assert (waited_s < 2, refused_s < 1) == (True, True)
        store.link.close()


def test_a_cluster_whose_master_was_away_goes_on_when_it_is_back() -> None:
    with ValkeyCluster() as servers:
        store, memory = store_at(servers.url), MemoryStore(DOMAIN)
        events = many(60, 11)
        assert store.apply(events[:20])[0].tobytes() == memory.apply(events[:20])[0].tobytes()
        servers.nodes[1].stop()
        with pytest.raises(Unavailable):
            store.apply(events[20:])
        servers.nodes[1].start()
        until_s = time.monotonic() + 30
        while store.problem and time.monotonic() < until_s:
            time.sleep(0.01)
        assert store.apply(events[20:])[0].tobytes() == memory.apply(events[20:])[0].tobytes()
        store.link.close()


def test_a_bad_address_is_refused_without_showing_its_password() -> None:
    with pytest.raises(ConfigError) as refusal:
        Link("redis://someone:secret@127.0.0.1:port", 100)
    assert "VIGIL_STATE_URL=redis://127.0.0.1:port" in str(refusal.value)
    assert "secret" not in str(refusal.value)
