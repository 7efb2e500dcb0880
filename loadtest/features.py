"""`python -m loadtest.features`: what features cost, of a whole history and live, and what their state weighs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from vigil import domains
from vigil.domains.simulation import HISTORY_DAYS, IDS_PER_DAY, Payments, simulate
from vigil.features import history
from vigil.features.memory.store import CHUNK, MemoryStore

DOMAIN = domains.load("payments")
SEED, LIVE_DAYS = 1, 3


def main(
    data: Annotated[Path | None, typer.Option(help="A history of payments; default: six simulated months.")] = None,
    customers: Annotated[int, typer.Option(min=3, help="Customers of the simulation.")] = 5000,
    terminals: Annotated[int, typer.Option(min=2, help="Terminals of the simulation.")] = 10_000,
    days: Annotated[int, typer.Option(min=1, help="Days of the simulation.")] = HISTORY_DAYS,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the medians count.")] = 3,
) -> None:
    """One thread, and its CPU time, so that other work on the machine shows only by the caches it fills."""
    made = simulate(SEED, 0, days, customers, terminals)
    if data:
        past = history.read(DOMAIN, data)
    else:
        past = history.History(DOMAIN, made.event_ids, made.ts_ms, made.keys, made.numbers, made.labels)
    warm = MemoryStore(DOMAIN)
    warm.apply_events([warm.schema.make(DOMAIN.example)])
    console = Console()
    took: list[list[tuple[float, float]]] = []
    store = warm
    for _ in track(range(rounds), "whole history", transient=True):
        pairs, store = whole(past)
        took.append(pairs)
    shown = Table("whole history, in one thread", "s", "CPU s", "CPU us an event", title=f"{len(past):,} payments")
    for i, part in enumerate(("packing", "kernel", "both")):
        took_s, cpu_s = (statistics.median(pairs[i][j] for pairs in took) for j in range(2))
        shown.add_row(part, f"{took_s:.2f}", f"{cpu_s:.2f}", f"{cpu_s / len(past) * 1e6:.2f}")
    console.print(shown)
    console.print(memory(store))
    console.print(live(store, int(past.ts_ms[-1]), simulate(SEED, days, LIVE_DAYS, customers, terminals), rounds))


def whole(past: history.History) -> tuple[list[tuple[float, float]], MemoryStore]:
    """Replays as `MemoryStore.replay` does; (seconds, CPU seconds) of packing, of the kernel and of both; the store."""
    store = MemoryStore(DOMAIN)
    started = perf_counter(), thread_time()
    batch = store.batch_of(past)
    packed = perf_counter(), thread_time()
    out = np.empty((len(batch), len(DOMAIN.features)), np.float32)
    for at in range(0, len(batch), CHUNK):
        store.apply(batch[at : at + CHUNK], out[at : at + CHUNK])
    done = perf_counter(), thread_time()
    pairs = (started, packed), (packed, done), (started, done)
    return [(end[0] - begin[0], end[1] - begin[1]) for begin, end in pairs], store


def memory(store: MemoryStore) -> Table:
    """The parts of the state in megabytes, and per what they are for."""
    shown = Table("state", "MB used", "bytes each", title=f"{store.count:,} entities")
    state, used = store.state, store.state.memory
    records = int(state.counts(np.arange(store.count)).sum())
    answered = sum(len(event.features) > 0 for event in state.events())
    for name, size, count, unit in (
        ("entities and their records", used["entities"], store.count, "an entity"),
        ("of that, a record", used["entities"], records, "a record"),
        ("events that labels can find", used["events"], state.remembered, "an event remembered"),
        ("features for repeats", used["features"], answered, "an event"),
    ):
        shown.add_row(name, f"{size / 1e6:.1f}", f"{size / max(count, 1):.0f} {unit}")
    return shown


def live(store: MemoryStore, last_ms: int, day: Payments, rounds: int) -> Table:
    """Batches of decoded events on that state: packing and kernel apart."""
    shown = Table("live, events a batch", "packing", "kernel", "both", title="CPU us an event, the median batch")
    made, first = events_of(store, day, last_ms), 0
    for size in (1, 64, 5000):
        costs: list[tuple[float, float]] = []
        for _ in range(max(rounds, min(200, 6000 // size))):
            part = made[first : first + size]
            if len(part) < size:
                break
            first += size
            packing_s, batch = timed(lambda part=part: store.pack(part))  # type: ignore[misc]
            kernel_s, _ = timed(lambda batch=batch: store.apply(batch))  # type: ignore[misc]
            costs.append((packing_s / size * 1e6, kernel_s / size * 1e6))
        packing, kernel_us = (statistics.median(cost[i] for cost in costs) for i in range(2))
        shown.add_row(f"{size}", f"{packing:.2f}", f"{kernel_us:.2f}", f"{packing + kernel_us:.2f}")
    return shown


def events_of(store: MemoryStore, day: Payments, last_ms: int) -> Sequence[Any]:
    """A day's payments as decoded events that follow the history: ids and keys as strings, times as milliseconds."""
    columns = [column.tolist() for column in (day.event_ids, day.ts_ms, day.customer, day.terminal, day.amount)]
    shift_ms = last_ms + 1 - int(day.ts_ms[0])
    return [
        store.schema.struct(
            event_id=str(IDS_PER_DAY * 1_000_000 + event_id),
            ts=ts + shift_ms,
            customer=str(customer),
            terminal=str(terminal),
            amount=amount,
        )
        for event_id, ts, customer, terminal, amount in zip(*columns, strict=True)
    ]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    started_s = thread_time()
    result = call()
    return thread_time() - started_s, result


if __name__ == "__main__":
    typer.run(main)
