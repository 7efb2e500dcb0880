"""`python -m loadtest.bench`: the champion behind Vigil and behind its peers, side by side in one run."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import model_store
from loadtest import page
from loadtest.calls import MODEL, Row
from loadtest.environment import peers_python
from loadtest.measured import Job, Line, Results, measure, reason
from loadtest.picture import draw
from loadtest.servers import SERVERS, Server
from vigil import domains
from vigil.errors import InvalidInput, Unavailable, VigilError
from vigil.features.memory.store import MemoryStore

HEADS = ("server", "", "requests/s", "p50 ms", "p99 ms", "errors", "CPU us", "MB", "Vigil is")
MARKER = "make bench"


def main(
    only: Annotated[str, typer.Option(help=f"Some of {','.join(server.key for server in SERVERS)}; all.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, the servers taking turns; the medians count.")] = 3,
    seconds: Annotated[int, typer.Option(min=1, help="Seconds of load a round and way in.")] = 5,
    connections: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 64,
    write: Annotated[
        Path | None, typer.Option(help="Page that gets table and picture between its markers.", dir_okay=False)
    ] = None,
) -> None:
    """Single-row inference, with wrk over HTTP and h2load over gRPC.

    All servers run the same ONNX file in one thread on this machine, beside the load, one after another.
    """
    console = Console()
    if not console.is_terminal:
        console.width = 120
    try:
        chosen = selected(only)
        results = run(console, chosen, rounds, seconds, connections)
        lines = results.lines()
        console.print(table(lines, connections))
        for name, why in results.missing.items():
            console.print(f"[yellow]missing:[/] {name}: {why}", highlight=False)
        if write and lines:
            options = f" --rounds {rounds} --seconds {seconds} --connections {connections}"
            publish(write, results, chosen, f"python -m loadtest.bench{f' --only {only}' if only else ''}{options}")
    except VigilError as failure:
        console.print(f"[red]bench: {failure}")
        raise typer.Exit(1) from None
    if not lines:
        raise typer.Exit(1)


def selected(only: str) -> list[Server]:
    """The servers of those keys, comma-separated; all for "".

    Raises:
        InvalidInput: listing the keys there are.
    """
    keys = [key for key in only.split(",") if key]
    known = {server.key: server for server in SERVERS}
    for key in keys:
        if key not in known:
            raise InvalidInput(f"--only: got {key!r}, wanted some of {', '.join(known)}")
    return [known[key] for key in keys] or list(SERVERS)


def run(console: Console, chosen: list[Server], rounds: int, seconds: int, connections: int) -> Results:
    """The rounds of the servers that can run.

    Raises:
        NotFound: without a model.
    """
    stored = model_store.resolve(MODEL)
    model_store.verify(stored, domains.load(MODEL))
    row = example_row()
    pythons, absent = {False: Path(sys.executable)}, ""
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder, console.status("the peers' environment") as now:
        job = Job(row, own_risk(stored.onnx_path, row), stored.onnx_path, seconds, connections, Path(folder))
        if any(server.peer for server in chosen):
            try:
                pythons[True] = peers_python()
            except Unavailable as failure:
                absent = reason(failure)
        able = [server for server in chosen if server.peer in pythons]
        results = measure(able, pythons, job, rounds, now.update)
    results.missing.update({server.name: absent for server in chosen if server not in able})
    return results


def example_row() -> Row:
    """The features of the domain's example event."""
    domain = domains.load(MODEL)
    store = MemoryStore(domain)
    row: Row = store.apply_events([store.schema.make(domain.example)])[0][0].tolist()
    return row


def own_risk(onnx_path: Path, row: Row) -> float:
    """What the model itself answers."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    return float(session.run(["risk"], {"features": np.array([row], np.float32)})[0][0, 0])


def cells(lines: list[Line]) -> list[list[str]]:
    """The figures as text. The last column is how many times a server's rate Vigil has over the same protocol."""
    ours = {line.protocol: line.requests_per_s for line in lines if line.name == "Vigil"}

    def times(line: Line) -> str:
        return f"{ours[line.protocol] / line.requests_per_s:.1f}x" if line.protocol in ours else ""

    return [
        [
            line.name,
            line.protocol,
            f"{line.requests_per_s:,.0f}",
            f"{line.p50_ms:,.2f}",
            f"{line.p99_ms:,.2f}",
            f"{line.errors:,}",
            f"{line.cpu_us:,.0f}",
            f"{line.memory_mb:,.0f}",
            "" if line.name == "Vigil" else times(line),
        ]
        for line in lines
    ]


def table(lines: list[Line], connections: int) -> Table:
    """The lines for a terminal."""
    title = f"one row a request, {connections} under way, {os.cpu_count()} cores with the load generator on them"
    shown = Table(title=title)
    for i, head in enumerate(HEADS):
        shown.add_column(head, justify="left" if i < 2 else "right", no_wrap=True)
    for row in cells(lines):
        shown.add_row(*row, style="bold" if row[0] == "Vigil" else "")
    return shown


def publish(target: Path, results: Results, chosen: list[Server], command: str) -> None:
    """Table, picture, set-ups and what is missing into the page; the picture beside it.

    Raises:
        DataError: where the page has no markers for it.
    """
    lines = results.lines()
    picture = target.with_name("peers.svg")
    draw(lines, picture)
    rows = [[f"**{cell}**" if row[0] == "Vigil" and cell else cell for cell in row] for row in cells(lines)]
    names = {line.name for line in lines}
    setups = "\n".join(f"- {server.name}: {server.setup}." for server in chosen if server.name in names)
    missing = "\n".join(f"- Missing: {name}: {why}" for name, why in results.missing.items())
    parts = (page.origin(command), f"![Requests a second]({picture.name})", page.markdown(HEADS, rows), setups, missing)
    page.put(target, MARKER, "\n\n".join(part for part in parts if part))


if __name__ == "__main__":
    typer.run(main)
