"""Laws of the shared store, with real servers and real processes' worth of writers."""

from __future__ import annotations

import random
import re
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from testbed.valkey import Valkey, ValkeyCluster
from tests.features.every_feature import DOMAIN
from tests.features.shared_stores import emptied, records, store_at
from vigil.domains.schema import Feedback, key_of
from vigil.domains.spec import DAY_MS
from vigil.errors import ConfigError, InvalidEvent, Unavailable
from vigil.features.compiled import layout, wire
from vigil.features.memory.store import MemoryStore
from vigil.features.shared.cache import decode
from vigil.features.shared.connection import Link
from vigil.features.shared.store import MOST_AT_ONCE, SharedStore

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
                store.apply_events(part[at : at + size])
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
    store.feedback([])
    alone.seed = store.common.seed
    alone.apply_events(events)
    labelled = {item.event_id for part, size in parts for at in range(0, len(part), size)
                for item in part[at : at + size : 3]}  # fmt: skip
    alone.feedback([Feedback(event_id, 1) for event_id in labelled])
    for entity, keys in enumerate((A, B)):
        for key in keys:
            assert records(store, entity, key) == records(alone, entity, key)
    assert set(store.apply_events(events)[1].tolist()) == {layout.REPEAT}
    store.link.close()


def test_large_batches_on_the_same_few_entities_get_through_beside_each_other(url: str) -> None:
    events, failures = many(3000, 12, step_ms=1000), []

    def write(part: list[Any]) -> None:
        store = store_at(url)
        try:
            for at in range(0, len(part), 500):
                store.apply_events(part[at : at + 500])
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
    store.feedback([])
    alone.seed = store.common.seed
    alone.apply_events(events)
    for entity, keys in enumerate((A, B)):
        for key in keys:
            assert records(store, entity, key) == records(alone, entity, key)
    store.link.close()


def test_all_who_ask_for_one_event_get_one_answer(url: str) -> None:
    events, answers = many(40, 4), {}

    def write(name: int) -> None:
        store = store_at(url)
        answers[name] = store.apply_events(events)[0].tobytes()
        store.link.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers.values())) == 1


def test_many_labels_are_written_in_parts_as_a_server_does_nothing_else_meanwhile(valkey: Valkey) -> None:
    store, memory = store_at(emptied(valkey)), MemoryStore(DOMAIN)
    events = many(3 * MOST_AT_ONCE, 14, step_ms=1000)
    labels = [Feedback(item.event_id, i % 2) for i, item in enumerate(events)]
    labels += [Feedback("later", 1), *labels[:3], Feedback(events[0].event_id, 1)]
    for each in (store, memory):
        each.apply_events(events)
    with valkey.client() as client:
        client.config_resetstat()
        assert store.feedback(labels).tolist() == memory.feedback(labels).tolist()
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 4
    last = [event(10**6, START + 2 * DAY_MS)]
    assert store.apply_events(last)[0].tobytes() == memory.apply_events(last)[0].tobytes()
    store.link.close()


def test_a_batch_is_one_round_trip_where_its_entities_were_used_before(valkey: Valkey) -> None:
    store = store_at(emptied(valkey))
    store.apply_events(many(50, 5))
    before = store.link.round_trips
    store.apply_events([event(1000 + i, START + 10 * HOUR + i) for i in range(50)])
    assert store.link.round_trips == before + 1
    store.link.close()


def test_of_a_log_that_others_have_changed_what_has_come_behind_is_fetched_and_nothing_lost(valkey: Valkey) -> None:
    """The log of one has entries behind what the other has loaded; that of the other entity is another one."""
    first, second = (store_at(emptied(valkey)), store_at(valkey.url))
    memory = MemoryStore(DOMAIN)
    events = many(60, 6)
    wanted, _ = memory.apply_events(events)
    for at in range(0, 60, 20):  # as each finds the logs changed by the other, both look first from then on
        for store, start in ((first, at), (second, at + 10)):
            answered, _ = store.apply_events(events[start : start + 10])
            assert answered.tobytes() == wanted[start : start + 10].tobytes()
    key = first._loaded.name(0, "x").key
    with valkey.client() as client:
        entries = int(client.strlen(key)) // int(first._loaded.entry_bytes[0])
        row, loaded = first._loaded.store.rows[0]["x"], first._loaded
        behind = entries - int(loaded.logs[row, wire.ENTRIES])
        look = first._reader.look(loaded, np.array([row]))
        place, tail = first.link.call([(0, look)])[0]
        assert behind > 0
        assert (place, len(tail)) == (1, behind * int(loaded.entry_bytes[0]))
        client.set(key, client.getrange(key, 0, 7) * int(loaded.entry_bytes[0] // 8))
        assert first.link.call([(0, look)])[0] == [-1, client.get(key)]
    for store in (first, second):
        store.link.close()


def test_large_batches_of_several_processes_take_turns_and_do_not_meet(valkey: Valkey) -> None:
    url, together, failures = emptied(valkey), threading.Barrier(2), list[Exception]()
    stores = [store_at(url), store_at(url)]

    def write(store: SharedStore, seed: int) -> None:
        schema, rng = store.schema, random.Random(seed)
        try:
            for lap in range(4):
                made = [
                    {"event_id": f"{seed}-{lap}-{i}", "ts": START + i, "a": rng.choice(A), "b": "q", "amount": 1.0}
                    for i in range(2 * MOST_AT_ONCE)
                ]
                together.wait(60)
                store.apply_events([schema.make(values) for values in made])
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(store, seed)) for seed, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(store.conflicts for store in stores) == 0
    for store in stores:
        store.link.close()


def test_what_is_remembered_is_read_back_as_it_was_written_one_by_one_and_many_at_once(valkey: Valkey) -> None:
    store = store_at(emptied(valkey))
    features, _ = store.apply_events([event(i, START + i, a="ü" * 64, b=str(i)) for i in range(40)])
    _, name = store._loaded.event_name(key_of("e7", store.schema.seed))
    with valkey.client() as client:
        value = client.get(name)
    found = decode(value)
    assert (found.label, found.ts_ms, found.keys) == (-1, START + 7, ("ü" * 64, "7"))
    assert found.features.tobytes() == features[7].tobytes()
    assert found.encode() == value
    store.link.close()


def test_a_key_that_cannot_be_is_refused_in_batches_of_any_size_and_nothing_counts(valkey: Valkey) -> None:
    store = store_at(emptied(valkey))
    for count in (1, 50):
        events = [event(i, START + i) for i in range(count)]
        events[-1].b = "q" * 129
        with pytest.raises(InvalidEvent, match=r"^b: "):
            store.apply_events(events)
    with valkey.client() as client:
        assert not client.dbsize()
    store.link.close()


def test_of_a_large_batch_the_first_event_of_an_id_counts_also_where_its_part_has_to_be_written_again(
    valkey: Valkey,
) -> None:
    """A label waits for an event of the first part; the second has no entity of the first, but an id of it."""
    store, memory = store_at(emptied(valkey)), MemoryStore(DOMAIN)
    parts = [[event(n * 10_000 + i, START + i, a=f"a{n}", b=f"b{n}-{i}") for i in range(MOST_AT_ONCE)] for n in (0, 1)]
    parts[1][5] = event(9, START + 5, a="a1", b="b1-5")
    for each in (store, memory):
        each.feedback([Feedback("e3", 1)])
    wanted, became = memory.apply_events(parts[0] + parts[1])
    features, status = store.apply_events(parts[0] + parts[1])
    assert status.tolist() == became.tolist()
    assert features.tobytes() == wanted.tobytes()
    store.link.close()


def test_an_answer_that_got_lost_is_given_by_the_retry(url: str) -> None:
    store, memory = store_at(url), MemoryStore(DOMAIN)
    first = many(5, 6)
    expected, _ = memory.apply_events(first)
    store.apply_events(first)  # nobody took the answer
    again = store_at(url)
    assert again.apply_events(first)[0].tobytes() == expected.tobytes()
    later = [event(99, START + DAY_MS)]
    assert again.apply_events(later)[0].tobytes() == memory.apply_events(later)[0].tobytes()
    for opened in (store, again):
        opened.link.close()


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize(("most", "gap_ms"), [(20, HOUR), (4096, 300 * DAY_MS)])
def test_an_event_comes_again_in_a_batch_that_drops_its_records(
    valkey: Valkey, most: int, gap_ms: int, remembered: bool
) -> None:
    """For there are too many that are newer, or no window sees them any more."""
    domain = replace(DOMAIN, entities=tuple(replace(entity, most_records=most) for entity in DOMAIN.entities))
    store, memory = store_at(emptied(valkey), domain), MemoryStore(domain)
    first, later = event(0, START), [event(i, START + gap_ms + i) for i in range(1, 60)]
    for each in (store, memory):
        each.apply_events([first])
        each.feedback([Feedback("e0", 1)])
    if not remembered:
        with valkey.client() as client:
            client.delete(*client.scan_iter(b"*}e:*"))
    wanted, became = memory.apply_events([first, *later])
    features, status = store.apply_events([first, *later])
    assert status.tolist() == [layout.REPEAT if remembered else layout.RECOMPUTED, *became[1:].tolist()]
    assert features.tobytes() == wanted.tobytes()
    assert store.feedback([Feedback("e0", 1)]).tolist() == [layout.LABEL_KNOWN]
    store.link.close()


def test_a_log_is_written_anew_without_what_no_window_sees_and_bounded_by_most_records(valkey: Valkey) -> None:
    small = replace(DOMAIN, entities=(replace(DOMAIN.entities[0], most_records=40), DOMAIN.entities[1]))
    url, memory = emptied(valkey), MemoryStore(small)
    store = store_at(url, small)
    rng, ts = random.Random(7), START
    for i in range(600):
        ts += rng.randint(0, HOUR)
        item = [event(i, ts, "x", rng.choice(B))]
        assert store.apply_events(item)[0].tobytes() == memory.apply_events(item)[0].tobytes()
        if i % 50 == 0:
            store = store_at(url, small)  # a process that knows nothing yet
    with valkey.client() as client:
        sizes = {key: client.strlen(key) for key in client.scan_iter(b"*}0:x")}
    assert len(sizes) == 1
    assert max(sizes.values()) <= (2 * 40 + 17) * 8 * (int(store._loaded.widths[0]) + 1)


def test_an_event_that_comes_again_with_another_content_counts_nowhere(url: str) -> None:
    first, second, memory = store_at(url), store_at(url), MemoryStore(DOMAIN)
    made = many(30, 5)
    for store in (first, memory):
        store.apply_events(made)
    changed = [
        event(3, int(made[3].ts), a=made[3].a, b=made[3].b, amount=made[3].amount + 1),
        event(4, int(made[4].ts) + 1, a=made[4].a, b=made[4].b, amount=made[4].amount),
        event(5, int(made[5].ts), a="another", b=made[5].b, amount=made[5].amount),
    ]
    for store in (first, second, memory, new := store_at(url)):  # also who has nothing loaded
        features, status = store.apply_events([*changed, made[3], event(99, int(made[-1].ts))])
        assert status.tolist()[:4] == [layout.CONFLICT] * 3 + [layout.REPEAT]
        assert not features[:3].any()
    assert second.apply_events(made)[1].tolist() == [layout.REPEAT] * len(made)
    for place, field in enumerate(("amount", "ts", "a")):
        for store in (second, memory):
            store.apply_events(changed)
            told = str(store.conflict(store.pack(changed), place, 3 + place))
            assert re.search(rf"content: {field} \([0-9a-f]{{16}} then, [0-9a-f]{{16}} now\)", told)
    with_label = second.feedback([Feedback("e3", 1)])
    assert with_label.tolist() == [layout.LABELLED]
    assert first.apply_events(changed[:1])[1].tolist() == [layout.CONFLICT]
    for store in (first, second, new):
        store.link.close()


def test_all_processes_have_the_keys_of_one_seed_and_it_is_not_a_known_one(url: str) -> None:
    stores = [store_at(url) for _ in range(3)]
    for i, store in enumerate(stores):
        store.apply_events([event(i, START + i)])
    assert len({store.schema.seed for store in stores}) == 1
    assert stores[0].schema.seed not in (0, MemoryStore(DOMAIN).seed)
    assert [stores[2].apply_events([event(i, START + i)])[1][0] for i in range(3)] == [layout.REPEAT] * 3
    assert stores[2].newest_ms == START + 2
    for store in stores:
        store.link.close()


def test_what_is_not_used_any_more_expires(valkey: Valkey) -> None:
    store = store_at(emptied(valkey))
    store.apply_events(many(10, 8))
    store.feedback([Feedback("later", 1), Feedback("e1", 1)])
    keep_s = max(DOMAIN.keep_days(entity.name) for entity in DOMAIN.entities) * 86_400
    with valkey.client() as client:
        lives = {key: client.ttl(key) for key in client.scan_iter()}
    assert len(lives) == 10 + 1 + len(A) + len(B) + 1
    assert lives.pop(store.prefix + b"{0}common") > 2 * keep_s - 60
    for key, seconds in lives.items():
        least = DOMAIN.feedback_days * 86_400 if b"}e:" in key else keep_s
        assert least - 60 <= seconds <= 2 * least + 2 * 86_400
    store.link.close()


def test_what_has_expired_or_was_emptied_while_it_was_loaded_expires_again(url: str, request: Any) -> None:
    first, second = store_at(url), store_at(url)
    for i, store in enumerate((first, second, first, second)):  # one meets what the other has changed, and looks first
        store.apply_events([event(i, START + i)])
    servers = request.getfixturevalue(request.node.callspec.params["url"])
    emptied(servers)
    second.apply_events([event(9, START + 9)])
    for node in servers.nodes if isinstance(servers, ValkeyCluster) else [servers]:
        with node.client() as client:
            assert all(client.ttl(key) > 0 for key in client.scan_iter())
    for store in (first, second):
        store.link.close()


def test_domains_and_feature_specs_do_not_meet_on_one_server(valkey: Valkey) -> None:
    url = emptied(valkey)
    one, other = store_at(url), store_at(url, replace(DOMAIN, grace_days=0.25))
    events = many(20, 9)
    one.apply_events(events)
    assert set(other.apply_events(events)[1].tolist()) == {layout.NEW}
    for opened in (one, other):
        opened.link.close()


def test_a_server_that_hangs_is_waited_for_once_and_then_refused_at_once_until_it_is_back() -> None:
    with Valkey() as server:
        store = SharedStore(DOMAIN, Link(server.url, 200), 200)
        memory = MemoryStore(DOMAIN)
        events = many(30, 10)
        assert store.apply_events(events[:10])[0].tobytes() == memory.apply_events(events[:10])[0].tobytes()
        server.stop(signal.SIGSTOP)
        started_s = time.monotonic()
        with pytest.raises(Unavailable, match="is away"):
            store.apply_events(events[10:20])
        waited_s = time.monotonic() - started_s
        started_s = time.monotonic()
        for _ in range(100):
            with pytest.raises(Unavailable):
                store.apply_events(events[10:20])
        with pytest.raises(Unavailable):
            store.feedback([Feedback("e1", 1)])
        refused_s = time.monotonic() - started_s
        assert store.problem
        server.resume()
        until_s = time.monotonic() + 10
        while store.problem and time.monotonic() < until_s:
            time.sleep(0.01)
        # What was on its way when it hung may have counted; the retry completes it all the same.
        assert store.apply_events(events[10:])[0].tobytes() == memory.apply_events(events[10:])[0].tobytes()
        assert (waited_s < 2, refused_s < 1) == (True, True)
        store.link.close()


@pytest.mark.parametrize(
    ("refuse", "take"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ],
)
def test_a_server_that_takes_no_writes_is_away_until_it_does_and_asked_by_new_connections(
    refuse: str, take: str
) -> None:
    """Its name may mean another one by then."""
    with Valkey() as server, server.client() as client:
        store, memory, events, changes = store_at(server.url), MemoryStore(DOMAIN), many(40, 13), list[str]()
        store.watch(lambda: changes.append(store.problem))
        until_s = time.monotonic() + 10

        def others() -> set[str]:
            return {row["id"] for row in client.client_list()} - {str(client.client_id())}

        def asked() -> int:
            return int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])

        assert store.apply_events(events[:20])[0].tobytes() == memory.apply_events(events[:20])[0].tobytes()
        before = others()
        client.execute_command(*refuse.split())
        with pytest.raises(Unavailable, match="is away"):
            store.apply_events(events[20:])
        pings = asked()
        while store.problem and asked() < pings + 3 and time.monotonic() < until_s:
            time.sleep(0.01)
        assert (store.problem != "", len(changes)) == (True, 1)
        client.execute_command(*take.split())
        while store.problem and time.monotonic() < until_s:
            time.sleep(0.01)
        assert store.apply_events(events[20:])[0].tobytes() == memory.apply_events(events[20:])[0].tobytes()
        assert (len(changes), before & others()) == (2, set())
        store.link.close()


def test_a_cluster_whose_master_was_away_goes_on_when_it_is_back() -> None:
    with ValkeyCluster() as servers:
        store, memory = store_at(servers.url), MemoryStore(DOMAIN)
        events = many(60, 11)
        assert store.apply_events(events[:20])[0].tobytes() == memory.apply_events(events[:20])[0].tobytes()
        servers.nodes[1].stop()
        with pytest.raises(Unavailable):
            store.apply_events(events[20:])
        servers.nodes[1].start()
        until_s = time.monotonic() + 30
        while store.problem and time.monotonic() < until_s:
            time.sleep(0.01)
        assert store.apply_events(events[20:])[0].tobytes() == memory.apply_events(events[20:])[0].tobytes()
        store.link.close()


def test_a_cluster_of_which_no_node_answers_is_away_and_goes_on_when_it_is_back() -> None:
    with ValkeyCluster() as servers:
        store, memory, events = store_at(servers.url), MemoryStore(DOMAIN), many(60, 11)
        assert store.apply_events(events[:20])[0].tobytes() == memory.apply_events(events[:20])[0].tobytes()
        for node in servers.nodes:
            node.stop()
        with pytest.raises(Unavailable, match="is away"):
            store.apply_events(events[20:])
        late = store_at(servers.url)
        late.link.open()  # a service may start before its state
        assert late.problem
        for node in servers.nodes:
            node.start()
        until_s = time.monotonic() + 30
        while (store.problem or late.problem) and time.monotonic() < until_s:
            time.sleep(0.01)
        wanted, _ = memory.apply_events(events[20:])
        for opened in (store, late):
            assert opened.apply_events(events[20:])[0].tobytes() == wanted.tobytes()
            opened.link.close()


def test_a_bad_address_is_refused_without_showing_its_password() -> None:
    with pytest.raises(ConfigError) as refusal:
        Link("redis://someone:secret@127.0.0.1:port", 100)
    assert "VIGIL_STATE_URL=redis://127.0.0.1:port" in str(refusal.value)
    assert "secret" not in str(refusal.value)
