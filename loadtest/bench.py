"""`python -m loadtest.bench`: the champion behind Vigil and behind stock BentoML, in one run."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import model_store
from loadtest.served import Served
from loadtest.wrk import Load, wrk
from vigil import domains
from vigil.errors import VigilError
from vigil.features.store import MemoryStore

DOMAIN = "payments"
STOCK = "loadtest.peers.stock_bentoml:Stock"
VIGIL, PEER = "Vigil, POST /v2/models/payments/infer", "stock BentoML, plain @bentoml.api"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, the servers taking turns.")] = 3,
    seconds: Annotated[int, typer.Option(min=1, help="Seconds of load a round and server.")] = 5,
    connections: Annotated[int, typer.Option(min=1, help="Kept connections.")] = 64,
) -> None:
    """Single-row inference with wrk. Both servers run the same ONNX file on this machine, beside the load."""
    console = Console()
    try:
        loads = measure(rounds, seconds, connections)
    except VigilError as failure:
        console.print(f"[red]bench: {failure}")
        raise typer.Exit(1) from None
    console.print(table(loads, connections))


def measure(rounds: int, seconds: int, connections: int) -> dict[str, list[Load]]:
    """The loads of all rounds by server.

    Raises:
        NotFound: without a model.
        NotServed: where a server does not come up.
    """
    stored = model_store.resolve(DOMAIN)
    row = example_row()
    bodies = {
        VIGIL: {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, len(row)], "data": row}]},
        PEER: {"features": [row]},
    }
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
        at = Path(folder)
        environment = {
            "VIGIL_STATE_DIR": str(at / "state"),
            "VIGIL_DOMAINS": DOMAIN,
            "BENCH_MODEL": str(stored.onnx_path),
        }
        loads: dict[str, list[Load]] = {VIGIL: [], PEER: []}
        with Served(".", at / "vigil.log", environment) as ours, Served(STOCK, at / "stock.log", environment) as stock:
            urls = {VIGIL: f"{ours.url}/v2/models/{DOMAIN}/infer", PEER: f"{stock.url}/infer"}
            for url, body in zip(urls.values(), bodies.values(), strict=True):
                wrk(url, json.dumps(body), at, 1, connections)
            turns = [name for _ in range(rounds) for name in loads]
            for name in track(turns, description="wrk", transient=True):
                loads[name].append(wrk(urls[name], json.dumps(bodies[name]), at, seconds, connections))
    return loads


def example_row() -> list[float]:
    """The features of the domain's example event."""
    domain = domains.load(DOMAIN)
    store = MemoryStore(domain)
    row: list[float] = store.apply([store.schema.make(domain.example)])[0][0].tolist()
    return row


def table(loads: dict[str, list[Load]], connections: int) -> Table:
    """The medians over the rounds, and how many times the peer's rate each is."""
    title = f"one row a request, {connections} connections, {os.cpu_count()} cores with the load generator on them"
    shown = Table("server", *(f"{head}" for head in ("requests/s", "p50 ms", "p99 ms", "errors", "ratio")), title=title)
    peer = median([load.requests_per_s for load in loads[PEER]])
    for name, runs in loads.items():
        rate = median([load.requests_per_s for load in runs])
        p50, p99 = median([load.p50_ms for load in runs]), median([load.p99_ms for load in runs])
        errors = sum(load.errors for load in runs)
        shown.add_row(name, f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", str(errors), f"{rate / peer:.1f}")
    return shown


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


if __name__ == "__main__":
    typer.run(main)
