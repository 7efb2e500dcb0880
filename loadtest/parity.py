"""`python -m loadtest.parity`: a whole simulated history through Kafka, held against the offline computation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer

from loadtest.stream import DOMAIN, Run, console
from testbed.valkey import Valkey
from training.data import simulated
from vigil import domains
from vigil.decisions.record import features_of
from vigil.errors import VigilError
from vigil.features.history import History
from vigil.features.memory.store import MemoryStore


class Decided(msgspec.Struct):
    """What is compared of a decision record."""

    event_id: int
    features: bytes


class Differs(VigilError):
    """Decisions that are not those of the offline computation."""


def main(
    days: Annotated[int, typer.Option(help="Of simulated history.")] = 183,
    step: Annotated[int, typer.Option(help="Days that are fed at once; less than labels take to come.")] = 7,
    customers: Annotated[int, typer.Option()] = 5000,
    terminals: Annotated[int, typer.Option()] = 10_000,
    shared: Annotated[bool, typer.Option(help="State on a server instead of in memory.")] = False,
) -> None:
    """Feeds events and labels step by step to a worker that is started anew each time; compares every bit."""
    past = simulated(domains.load(DOMAIN), 0, days, customers=customers, terminals=terminals)
    try:
        with tempfile.TemporaryDirectory(prefix="vigil-parity-") as folder, ExitStack() as started:
            settings = {"VIGIL_STATE_URL": started.enter_context(Valkey()).url} if shared else {}
            run = started.enter_context(Run(Path(folder), "parity"))
            begins = np.searchsorted(past.ts_ms, past.ts_ms[0] + np.arange(0, days, step) * 86_400_000).tolist()
            for first, last in zip(begins, [*begins[1:], len(past)], strict=True):
                feed(run, past, first, last)
                if run.start("--stop-at-end", **settings).wait():
                    raise Differs("the worker failed")
                console.print(f"{last:,} of {len(past):,} events")
            compare(past, list(decided(run, len(past))))
    except VigilError as failure:
        console.print(f"[red]parity: {failure}")
        raise typer.Exit(1) from None
    console.print(f"{len(past):,} events, each decided once; no feature differs by a bit")


def feed(run: Run, past: History, first: int, last: int) -> None:
    """Events `first` to `last` of a history, and their labels."""
    names, producer = ("event_id", "ts", *past.keys, *past.numbers), run.producer()
    events, feedback = run.topic("events"), run.topic("feedback")
    columns = [past.event_ids, past.ts_ms, *past.keys.values(), *past.numbers.values(), past.labels]
    for *values, label in zip(*(column[first:last].tolist() for column in columns), strict=True):
        event = dict(zip(names, values, strict=True))
        producer.produce(events, msgspec.json.encode(event), str(values[2]))
        producer.produce(feedback, msgspec.json.encode({"event_id": values[0], "label": label}), str(values[0]))
        producer.poll(0)
    if left := producer.flush(60):
        raise Differs(f"{left} records could not be produced")


def decided(run: Run, count: int) -> Iterator[Decided]:
    """All decisions that are committed, at least `count` where they are there."""
    reader, decoder, seen = run.reader(), msgspec.json.Decoder(Decided), 0
    while records := reader.consume(10_000, 2.0 if seen >= count else 30.0):
        good: list[Any] = [record for record in records if record.error() is None]
        yield from (decoder.decode(record.value()) for record in good)
        seen += len(good)
    reader.close()


def compare(past: History, found: list[Decided]) -> None:
    """Holds decisions against the offline computation.

    Raises:
        Differs: where an event has no decision or several, or a feature differs.
    """
    found.sort(key=lambda decision: decision.event_id)
    order = np.argsort(past.event_ids, kind="stable")
    if [decision.event_id for decision in found] != past.event_ids[order].tolist():
        raise Differs(f"{len(found):,} decisions on {len(past):,} events")
    wanted = MemoryStore(past.domain).replay(past)[order]
    rows = features_of([decision.features for decision in found])
    differing = np.flatnonzero((rows.view(np.int32) != wanted.view(np.int32)).any(1))
    if len(differing):
        raise Differs(f"{len(differing):,} rows differ, the first is event {found[differing[0]].event_id}")


if __name__ == "__main__":
    typer.run(main)
