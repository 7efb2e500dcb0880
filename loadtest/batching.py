"""`python -m loadtest.batching`: what batching gains a slow model, and what it costs a fast one."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

from vigil.observe.metrics import BatchMetrics
from vigil.scoring.batcher import Batcher, Limits
from vigil.scoring.caller import future_of

FAST_S, SLOW_S = 10e-6, 5e-3
SPIN_BELOW_S = 1e-3


@dataclass(frozen=True)
class Run:
    """One run: calls a second, the median call in milliseconds, and the longest time the loop stood still."""

    calls_per_s: float
    p50_ms: float
    standstill_ms: float


def model(seconds: float) -> Callable[[Sequence[int]], Sequence[int]]:
    """A model that takes `seconds` a batch of any size; a slow one lets other threads run, as ONNX Runtime does."""

    def compute(rows: Sequence[int]) -> Sequence[int]:
        if seconds > SPIN_BELOW_S:
            sleep(seconds)
        else:
            until_s = perf_counter() + seconds
            while perf_counter() < until_s:
                pass
        return rows

    return compute


def batched(seconds: float, max_batch: int) -> Callable[[int], Awaitable[Any]]:
    """A caller of that model behind the batcher."""
    batcher: Batcher[int, Sequence[int], Sequence[int], int] = Batcher(
        list,
        model(seconds),
        lambda items, rows, risks: risks,
        Limits(max_batch, 8192, 1.0),
        BatchMetrics("bench", "rows"),
        seconds,
    )
    return lambda row: future_of(lambda caller: batcher.enqueue(row, caller))


def direct(seconds: float) -> Callable[[int], Awaitable[Any]]:
    """A caller of that model on the loop, a call at a time."""
    compute = model(seconds)

    async def call(row: int) -> Any:
        return compute([row])[0]

    return call


async def measured(call: Callable[[int], Awaitable[Any]], callers: int, seconds: float) -> Run:
    """`callers` tasks, each calling again as soon as it is answered, for `seconds`."""
    until_s, took_s, standstill_s = perf_counter() + seconds, [], 0.0

    async def caller(i: int) -> None:
        while (started_s := perf_counter()) < until_s:
            await call(i)
            took_s.append(perf_counter() - started_s)
            await asyncio.sleep(0)

    async def watch() -> None:
        nonlocal standstill_s
        while (started_s := perf_counter()) < until_s:
            await asyncio.sleep(0)
            standstill_s = max(standstill_s, perf_counter() - started_s)

    started_s = perf_counter()
    await asyncio.gather(*(caller(i) for i in range(callers)), watch())
    rate = len(took_s) / (perf_counter() - started_s)
    return Run(rate, statistics.median(took_s) * 1000, standstill_s * 1000)


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds a run.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, the ways taking turns; the median counts.")] = 3,
) -> None:
    """A model of 10 us and one of 5 ms a batch, called directly and by way of the batcher."""
    table = Table("model", "callers", "way", "calls/s", "p50 ms", "loop stood ms", "ratio")
    cases = [(took_s, callers) for took_s in (FAST_S, SLOW_S) for callers in (1, 64)]
    for took_s, callers in track(cases, transient=True):
        runs: dict[str, list[Run]] = {"direct": [], "batches of 1": [], "batches": []}
        for _ in range(rounds):
            ways = direct(took_s), batched(took_s, 1), batched(took_s, 1024)
            for done, call in zip(runs.values(), ways, strict=True):
                done.append(uvloop.run(measured(call, callers, seconds)))
        rates = {way: statistics.median(run.calls_per_s for run in done) for way, done in runs.items()}
        for way, done in runs.items():
            p50_ms = statistics.median(run.p50_ms for run in done)
            still_ms = statistics.median(run.standstill_ms for run in done)
            model_is = f"{took_s * 1e6:,.0f} us"
            ratio = f"{rates[way] / rates['direct']:.2f}"
            table.add_row(model_is, str(callers), way, f"{rates[way]:,.0f}", f"{p50_ms:.3f}", f"{still_ms:.1f}", ratio)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
