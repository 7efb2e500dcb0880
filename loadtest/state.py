"""`python -m loadtest.state`: what a shared feature state costs beside memory, in one run on this machine."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from testbed.valkey import Valkey, ValkeyCluster
from vigil import domains
from vigil.domains.schema import Schema
from vigil.domains.spec import Domain
from vigil.errors import Unavailable
from vigil.features.memory.store import MemoryStore
from vigil.features.shared.connection import Link
from vigil.features.shared.store import SharedStore

SIZES = {5000: 30_000, 64: 10_000, 1: 3_000}  # rows of a batch: events measured
TIMEOUT_MS = 250
SAMPLE = 300

Servers = Valkey | ValkeyCluster
Store = MemoryStore | SharedStore


class Run(NamedTuple):
    """One store at one batch size."""

    events_per_s: float
    client_us: float
    server_us: float
    round_trips: float
    p50_ms: float
    p99_ms: float


def simulated(domain: Domain, days: int) -> list[Any]:
    """Events of the domain's world, in order."""
    if domain.simulate is None:
        raise typer.BadParameter(f"domain {domain.name} declares no simulation")
    made = domain.simulate(0, 0, days)
    schema, names = Schema(domain), [*(e.name for e in domain.entities), *(n.name for n in domain.numbers)]
    columns = [made.event_ids, made.ts_ms, *made.keys.values(), *made.numbers.values()]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [schema.make({"event_id": str(i), "ts": ts} | dict(zip(names, rest, strict=True))) for i, ts, *rest in rows]


def measured(store: Store, servers: Servers | None, events: Sequence[Any], size: int) -> Run:
    """Applies events in batches of `size`."""
    trips = store.link.round_trips if isinstance(store, SharedStore) else 0
    server_s, client_s, started_s = servers.cpu_s() if servers else 0.0, time.process_time(), time.perf_counter()
    took_ms = []
    for at in range(0, len(events), size):
        begun_s = time.perf_counter()
        store.apply_events(events[at : at + size])
        took_ms.append((time.perf_counter() - begun_s) * 1000)
    whole_s, client_s = time.perf_counter() - started_s, time.process_time() - client_s
    server_s = servers.cpu_s() - server_s if servers else 0.0
    trips = store.link.round_trips - trips if isinstance(store, SharedStore) else 0
    count = len(events)
    return Run(
        count / whole_s,
        client_s / count * 1e6,
        server_s / count * 1e6,
        trips / len(took_ms),
        statistics.median(took_ms),
        sorted(took_ms)[int(len(took_ms) * 0.99)],
    )


def sizes_of(domain: Domain, server: Valkey) -> dict[str, float]:
    """Mean bytes that a log of each entity, and a remembered event, takes on a server."""
    found: dict[str, list[int]] = {}
    with server.client() as client:
        keys = list(client.scan_iter(count=10_000))
        for key in random.Random(0).sample(keys, min(len(keys), SAMPLE * 20)):
            kind = key.partition(b"}")[2].partition(b":")[0].decode()
            name = "event" if kind == "e" else domain.entities[int(kind)].name
            if len(found.setdefault(name, [])) < SAMPLE:
                found[name].append(int(client.memory_usage(key)))
    return {name: statistics.mean(values) for name, values in found.items()}


def recovery(domain: Domain, events: Sequence[Any]) -> dict[str, float]:
    """Milliseconds: the longest call while a server is away, and from its return to the first answer."""

    def call_ms(store: SharedStore) -> tuple[float, bool]:
        begun_s = time.perf_counter()
        try:
            store.apply_events(events[:1])
            answered = True
        except Unavailable:
            answered = False
        return (time.perf_counter() - begun_s) * 1000, answered

    with Valkey("--appendonly", "yes") as server:
        store = SharedStore(domain, Link(server.url, TIMEOUT_MS), TIMEOUT_MS)
        call_ms(store)
        server.stop()
        longest_ms = max(call_ms(store)[0] for _ in range(1000))
        server.start()
        back_s = time.perf_counter()
        while not call_ms(store)[1]:
            pass
        back_ms = (time.perf_counter() - back_s) * 1000
        store.link.close()
    return {"longest call while away, ms": longest_ms, "from its return to the first answer, ms": back_ms}


def main(
    days: Annotated[int, typer.Option(help="Days of history in the state before it is measured.")] = 30,
    domain: Annotated[str, typer.Option()] = "payments",
) -> None:
    """Memory, server and a cluster of three, the same events: rates, costs, bytes, recovery."""
    console, chosen = Console(), domains.load(domain)
    events = simulated(chosen, days + 8)
    table = Table(title=f"{chosen.name}, {len(events):,} events; CPU in us an event", title_justify="left")
    for column in (
        "state",
        "batch",
        "events/s",
        "client us/event",
        "server us/event",
        "round trips",
        "p50 ms",
        "p99 ms",
    ):
        table.add_column(column, justify="right")

    def fill(name: str, store: Store, servers: Servers | None, warm: int) -> None:
        for at in track(range(0, warm, 5000), f"{name}: history", console=console, transient=True):
            store.apply_events(events[at : min(warm, at + 5000)])
        at = warm
        for size, count in SIZES.items():
            run = measured(store, servers, events[at : at + count], size)
            at += count
            figures = (f"{run.events_per_s:,.0f}", *(f"{value:.1f}" for value in run[1:4]))
            table.add_row(name, str(size), *figures, *(f"{value:.2f}" for value in run[4:]))

    warm = len(events) - sum(SIZES.values())
    makers: dict[str, Callable[[], Servers]] = {"server": Valkey, "cluster": ValkeyCluster}
    fill("memory", MemoryStore(chosen), None, warm)
    facts: dict[str, float] = {}
    for name, make in makers.items():
        with make() as servers:
            store = SharedStore(chosen, Link(servers.url, 30_000), 30_000)
            fill(name, store, servers, warm)
            if isinstance(servers, Valkey):
                facts = {f"bytes, {kind}": size for kind, size in sizes_of(chosen, servers).items()}
            store.link.close()
    console.print(table)
    for what, value in (facts | recovery(chosen, events)).items():
        console.print(f"{what}: {value:,.1f}")


if __name__ == "__main__":
    typer.run(main)
