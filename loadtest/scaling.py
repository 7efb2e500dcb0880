"""`python -m loadtest.scaling`: what one and two workers take, CPU a prediction as load grows, and what follows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest import page
from loadtest.capacity import Point, fitted
from loadtest.limits import SCORE, Trial, scored
from loadtest.outcome import Outcome
from loadtest.paced import paced
from loadtest.payments import payments
from loadtest.usage import cpu_s
from loadtest.wires import Http1
from testbed.served import LOCALHOST, Served
from testbed.valkey import Valkey
from vigil.errors import VigilError

MARKER = "loadtest.scaling"
RATES = (250, 1000, 2000, 4000)
HEADS = ("feature state", "workers", "load", "answered/s", "p50 ms", "p99 ms", "CPU us each", "of it Valkey")
CONNECTIONS, WARM_S, KEPT_UP = 64, 1, 0.95


@dataclass(frozen=True)
class Case:
    """Where the feature state is, and how many workers there are."""

    name: str
    workers: int
    shared: bool


CASES = (
    Case("memory", 1, False),
    Case("Valkey", 1, True),
    Case("Valkey", 2, True),
)


class Fresh(Http1):
    """A payment a request, each of them new."""

    def __init__(self, authority: str) -> None:
        super().__init__(authority, SCORE, {}, b"")
        self._authority, self._payments = authority, payments(id(self))

    def request(self) -> bytes:
        body = json.dumps(next(self._payments)).encode()
        head = f"POST {SCORE} HTTP/1.1\r\nhost: {self._authority}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Measured:
    """A constant rate: what became of it, CPU microseconds of Vigil and of Valkey an answer, cores that Vigil used."""

    run: Outcome
    cpu_us: float
    valkey_us: float
    use: float


def measured(service: Served, servers: Valkey | None, per_s: float, seconds: float) -> Measured:
    """Payments at that rate."""

    def used() -> tuple[float, float]:
        return cpu_s(service.process.pid), servers.cpu_s() if servers else 0.0

    before = used()
    run = paced(partial(Fresh, service.address), LOCALHOST, service.port, per_s, seconds, CONNECTIONS)
    ours_s, valkey_s = (after - then for after, then in zip(used(), before, strict=True))
    answered = max(run.good_per_s * seconds, 1.0)
    return Measured(run, ours_s / answered * 1e6, valkey_s / answered * 1e6, ours_s / seconds)


def cases(trial: Trial, chosen: tuple[Case, ...] = CASES) -> Iterator[tuple[Case, Served, Valkey | None]]:
    """Each case with its service, up as long as it is looked at."""
    for case in chosen:
        with ExitStack() as stack:
            servers = stack.enter_context(Valkey()) if case.shared else None
            settings = {"VIGIL_STATE_URL": servers.url} if servers else {}
            yield case, stack.enter_context(trial.vigil(VIGIL_WORKERS=str(case.workers), **settings)), servers


def points(
    service: Served, servers: Valkey | None, workers: int, rates: tuple[int, ...], seconds: float
) -> Iterator[tuple[Measured, Point]]:
    """Each rate, with what it says of one worker."""
    paced(partial(Fresh, service.address), LOCALHOST, service.port, rates[0], WARM_S, CONNECTIONS)
    for rate in rates:
        found = measured(service, servers, rate, seconds)
        yield found, Point(found.run.good_per_s / workers, found.use / workers, found.run.p99_ms)


def main(
    seconds: Annotated[int, typer.Option(min=1, help="Of load a measurement.")] = 5,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second to plan for.")] = 50_000,
    p99_ms: Annotated[float, typer.Option(min=0.1, help="And what is promised.")] = 50.0,
    price: Annotated[float, typer.Option(min=0, help="Of a core for an hour.")] = 0.0,
    write: Annotated[Path | None, typer.Option(help="Page that gets the table between its markers.")] = None,
) -> None:
    """Constant rates, the load generator on the same cores, then as much as 64 connections get through."""
    console, rows, facts = Console(), [], []
    try:
        with tempfile.TemporaryDirectory(prefix="vigil-scaling-") as folder:
            trial = Trial(seconds, Path(folder))
            for case, service, servers in cases(trial):
                found = list(points(service, servers, case.workers, RATES, seconds))
                peak = scored(service, trial, seconds, CONNECTIONS)
                rows += [line(case, f"{per_s:,}/s", each) for per_s, (each, _) in zip(RATES, found, strict=True)]
                ends = [f"{peak.requests_per_s:,.0f}", f"{peak.p50_ms:.1f}", f"{peak.p99_ms:.1f}", "", ""]
                rows.append([case.name, str(case.workers), "all it takes", *ends])
                facts.append(fact(case, [point for each, point in found if kept_up(each.run)], rate, p99_ms, price))
    except VigilError as failure:
        console.print(f"[red]scaling: {failure}")
        raise typer.Exit(1) from None
    text = "\n\n".join((page.markdown(HEADS, rows), "\n".join(facts)))
    console.print(text, highlight=False, soft_wrap=True)
    if write:
        page.put(write, MARKER, f"{page.origin(f'python -m loadtest.scaling --seconds {seconds}')}\n\n{text}")


def line(case: Case, load: str, found: Measured) -> list[str]:
    """A row of the table."""
    run = found.run
    times = [f"{run.good_per_s:,.0f}", f"{run.p50_ms:.1f}", f"{run.p99_ms:.1f}"]
    return [case.name, str(case.workers), load, *times, f"{found.cpu_us:.0f}", f"{found.valkey_us:.0f}"]


def kept_up(run: Outcome) -> bool:
    """Whether nearly all was answered; what a full worker does says little of one with room."""
    return run.good_per_s >= KEPT_UP * run.sent_per_s


def fact(case: Case, seen: list[Point], rate: float, p99_ms: float, price: float) -> str:
    """What the measurements of a case mean."""
    what = f"- {case.name}, workers: {case.workers}"
    try:
        found = fitted(seen)
        what += f"; `--idle {found.idle:.3f} --cpu-us {found.cpu_us:.0f} --wait-ms {found.wait_ms:.2g}`"
        pods = found.pods(rate, p99_ms, case.workers)
    except VigilError as failure:
        return f"{what}; {failure}."
    each = rate / pods / case.workers
    what += f"; {rate:,.0f}/s within {p99_ms:g} ms: {pods} pods at {found.use(each):.0%} of their cores"
    return what + (f", {found.cost(each, price):.3g} for a million predictions." if price else ".")


if __name__ == "__main__":
    typer.run(main)
