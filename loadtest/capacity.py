"""How many pods a rate needs, and what a million predictions cost: a model of three figures that a measurement gives.

A worker is one core. Of it, a share is used whatever comes and the rest by requests; a tail latency grows as the core
fills up, as in a queue with one server: p99 = wait_ms / (1 - use).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer

from vigil.errors import InvalidInput

MOST_USE = 0.7  # of a core: room for what comes unevenly, for a pod that is gone
US_A_SECOND, S_AN_HOUR = 1e6, 3600.0


@dataclass(frozen=True)
class Point:
    """One measurement of one worker: answers a second, share of a core it used, and p99 in ms."""

    per_s: float
    use: float
    p99_ms: float


@dataclass(frozen=True)
class Capacity:
    """What one worker takes.

    Args:
        idle: share of a core that is used without load.
        cpu_us: CPU microseconds of a further request.
        wait_ms: p99 of an empty worker, in milliseconds.
    """

    idle: float
    cpu_us: float
    wait_ms: float

    def use(self, per_s: float) -> float:
        """Share of a core that a worker with that rate uses."""
        return self.idle + per_s * self.cpu_us / US_A_SECOND

    def p99_ms(self, per_s: float) -> float:
        """p99 of a worker with that rate; infinite from a full core on."""
        use = self.use(per_s)
        return self.wait_ms / (1 - use) if use < 1 else math.inf

    def per_worker(self, p99_ms: float, most_use: float = MOST_USE) -> float:
        """Requests a second that a worker takes within that p99 and that share of its core.

        Raises:
            InvalidInput: where no worker is that fast.
        """
        use = min(most_use, 1 - self.wait_ms / p99_ms)
        if use <= self.idle:
            raise InvalidInput(
                f"p99 {p99_ms:g} ms at {most_use:.0%} of a core: an empty worker has {self.p99_ms(0):.3g} ms and "
                f"uses {self.idle:.0%}"
            )
        return (use - self.idle) * US_A_SECOND / self.cpu_us

    def pods(self, per_s: float, p99_ms: float, workers: int = 1, most_use: float = MOST_USE) -> int:
        """Pods of so many workers for a rate within a p99; at least one. For one that may be missing add one."""
        return max(1, math.ceil(per_s / (workers * self.per_worker(p99_ms, most_use))))

    def cost(self, per_s: float, price: float) -> float:
        """Of a million predictions at a worker's rate, where a core costs `price` an hour and is paid for whole."""
        return US_A_SECOND / per_s / S_AN_HOUR * price


def fitted(points: Sequence[Point]) -> Capacity:
    """The model of some measurements of one worker: least squares for CPU, the median for p99.

    Raises:
        InvalidInput: for fewer than two different rates.
    """
    if len({point.per_s for point in points}) < 2:
        raise InvalidInput(f"a capacity of {len(points)} measurements: wanted two different rates at least")
    rates = np.array([point.per_s for point in points])
    slope, idle = np.polyfit(rates, [point.use for point in points], 1)
    if idle < 0:  # a share cannot be: the line then goes through nothing
        idle, slope = 0.0, float(rates @ [point.use for point in points] / (rates @ rates))
    wait_ms = float(np.median([point.p99_ms * max(1 - point.use, 0.05) for point in points]))
    return Capacity(float(idle), float(slope) * US_A_SECOND, wait_ms)


def main(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second, of all pods together.")],
    cpu_us: Annotated[float, typer.Option(min=0.001, help="CPU microseconds of a request.")],
    wait_ms: Annotated[float, typer.Option(min=0, help="p99 of an empty worker.")],
    idle: Annotated[float, typer.Option(min=0, max=1, help="Share of a core an idle worker uses.")] = 0.0,
    p99_ms: Annotated[float, typer.Option(min=0.001, help="What is promised.")] = 50.0,
    workers: Annotated[int, typer.Option(min=1, help="Workers of a pod, a core each.")] = 1,
    most_use: Annotated[float, typer.Option(min=0.01, max=1, help="Share of a core that may be used.")] = MOST_USE,
    price: Annotated[float, typer.Option(min=0, help="Of a core for an hour.")] = 0.0,
) -> None:
    """Pods for a rate and a p99, and the cost of a million predictions: `python -m loadtest.capacity`."""
    found = Capacity(idle, cpu_us, wait_ms)
    try:
        pods = found.pods(rate, p99_ms, workers, most_use)
    except InvalidInput as failure:
        raise typer.BadParameter(str(failure)) from None
    each = rate / pods / workers
    print(f"{pods} pods, {found.use(each):.0%} of each core, p99 about {found.p99_ms(each):.3g} ms")
    if price:
        print(f"{found.cost(each, price):.4g} for a million predictions")


if __name__ == "__main__":
    typer.run(main)
