"""A cluster that changes while events flow: slots move, a master dies and its replica takes over."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from testbed.valkey import Valkey, ValkeyCluster
from tests.features.every_feature import DOMAIN
from tests.features.shared_stores import TIMEOUT_MS, store_at
from vigil.domains.schema import Feedback
from vigil.errors import Unavailable
from vigil.features.memory.store import MemoryStore
from vigil.features.shared.connection import SLOTS, Link
from vigil.features.shared.store import SharedStore

START = 1_600_000_000_000
MINUTE = 60_000
FIRSTS = range(5461)  # slots of the first of three


@pytest.fixture
def servers() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as started:
        yield started


def batches(count: int) -> Iterator[list[Any]]:
    """Batches of 1 to 20 events of few entities."""
    rng, schema, i = random.Random(1), MemoryStore(DOMAIN).schema, 0
    for _ in range(count):
        made = []
        for _ in range(rng.randint(1, 20)):
            i += 1
            entities = {"a": rng.choice("uvwxyz"), "b": f"b{rng.randint(0, 20)}"}
            values = {"event_id": i, "ts": START + i * MINUTE, "amount": rng.randint(1, 900) / 100}
            made.append(schema.make(values | entities))
        yield made


def until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def begin_move(slot: int, source: redis.Redis, target: redis.Redis) -> None:
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source.execute_command("CLUSTER MYID"))
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target.execute_command("CLUSTER MYID"))


def move_keys(slot: int, source: redis.Redis, target: Valkey, most: int) -> int:
    source.response_callbacks.pop("CLUSTER GETKEYSINSLOT", None)  # keys are bytes, not text
    keys = source.execute_command("CLUSTER GETKEYSINSLOT", slot, most)
    if keys:
        source.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    return len(keys)


def end_move(slot: int, source: redis.Redis, target: redis.Redis) -> None:
    for client in (target, source):
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", target.execute_command("CLUSTER MYID"))


def one_by_one(servers: ValkeyCluster) -> None:
    """All slots of the first server that hold keys go to the second, as `--cluster reshard` moves them."""
    first, second = servers.nodes[:2]
    with first.client() as source, second.client() as target:
        for slot in sorted(set(SLOTS) & set(FIRSTS)):
            begin_move(slot, source, target)
            while move_keys(slot, source, second, 5):
                pass
            end_move(slot, source, target)


def at_once(servers: ValkeyCluster) -> None:
    """The same by what Valkey has had since 9."""
    with servers.nodes[0].client() as source, servers.nodes[1].client() as target:
        to = target.execute_command("CLUSTER MYID")
        source.execute_command("CLUSTER MIGRATESLOTS", "SLOTSRANGE", FIRSTS[0], FIRSTS[-1], "NODE", to)
        until(lambda: "success" in str(source.execute_command("CLUSTER GETSLOTMIGRATIONS")))


@pytest.mark.parametrize("move", [one_by_one, at_once])
def test_slots_move_while_events_flow_and_every_answer_is_that_of_memory(
    servers: ValkeyCluster, move: Callable[[ValkeyCluster], None]
) -> None:
    store, memory = store_at(servers.url), MemoryStore(DOMAIN)
    moving = threading.Thread(target=move, args=(servers,))
    after = 0
    for number, events in enumerate(batches(4000)):
        if number == 30:
            moving.start()
        assert store.apply_events(events)[0].tobytes() == memory.apply_events(events)[0].tobytes()
        labels = [Feedback(event.event_id, 1) for event in events[::7]]
        assert store.feedback(labels).tolist() == memory.feedback(labels).tolist()
        after += number > 30 and not moving.is_alive()
        if after == 30:
            break
    assert after == 30
    moving.join()
    with servers.nodes[1].client() as second:
        moved = sum(second.execute_command("CLUSTER COUNTKEYSINSLOT", slot) for slot in {*SLOTS} & {*FIRSTS})
    assert moved > 100
    store.link.close()


def test_a_slot_that_stays_half_moved_is_waited_for_within_the_bound_and_nothing_counts_twice(
    servers: ValkeyCluster,
) -> None:
    memory = MemoryStore(DOMAIN)
    patient, store = store_at(servers.url), SharedStore(DOMAIN, Link(servers.url, 300), 300)
    first, *others = batches(60)
    given = [event for events in others for event in events]
    assert patient.apply_events(first)[0].tobytes() == memory.apply_events(first)[0].tobytes()
    patient.link.close()
    slot = next(slot for slot in SLOTS if slot in FIRSTS)
    with servers.nodes[0].client() as source, servers.nodes[1].client() as target:
        begin_move(slot, source, target)
        started_s = time.monotonic()
        with pytest.raises(Unavailable, match="slots of the cluster are moving"):
            store.apply_events(given)
        assert time.monotonic() - started_s < 10 * 0.3  # the bound, on a machine full of tests
        assert not store.problem
        while move_keys(slot, source, servers.nodes[1], 5):
            pass
        end_move(slot, source, target)
    assert store.apply_events(given)[0].tobytes() == memory.apply_events(given)[0].tobytes()
    store.link.close()


def test_a_replica_that_takes_over_goes_on_where_its_master_was() -> None:
    """Also where the master was the one that the address names."""
    with ValkeyCluster("--cluster-node-timeout", "500", replica=True) as servers:
        store, memory = store_at(servers.url), MemoryStore(DOMAIN)
        before, *later = batches(20)
        assert store.apply_events(before)[0].tobytes() == memory.apply_events(before)[0].tobytes()
        with servers.nodes[0].client() as master:
            assert master.wait(1, TIMEOUT_MS) == 1
        servers.nodes[0].stop(signal.SIGKILL)
        with pytest.raises(Unavailable):
            store.apply_events([event for events in later for event in events])
        until(lambda: not store.problem)
        for events in later:
            assert store.apply_events(events)[0].tobytes() == memory.apply_events(events)[0].tobytes()
        store.link.close()
