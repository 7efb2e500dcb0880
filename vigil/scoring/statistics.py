"""What one version of a model has done: counts and measured times, as the inference protocol reports them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """Counts `count` that took `ns` nanoseconds together."""
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class Batches:
    """The executions of one batch size: `compute_input` joins, `compute_infer` runs, `compute_output` parts."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class Statistics:
    """Inferences of one version of a model since it was first loaded by this process.

    A request of n rows is n inferences; a batch that went through the model together is one execution.
    `success`, `fail` and `queue` count requests; the compute times of a batch are those of each request
    in it, as in Triton's statistics extension. Times are nanoseconds.

    Args:
        clock_ms: gives the time, epoch milliseconds UTC.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self.last_inference_ms = self.inferences = self.executions = 0
        self.success, self.fail, self.queue = Duration(), Duration(), Duration()
        self.compute = Batches()
        self.by_size: dict[int, Batches] = {}

    def count_failure(self, ns: int) -> None:
        """Counts one request the model refused, `ns` after it was submitted."""
        self.fail.add(1, ns)

    def count_execution(self, requests: int, rows: int, waited_ns: int, times_ns: tuple[int, int, int]) -> None:
        """Counts one execution.

        Args:
            requests: that were in the batch.
            rows: that were in the batch.
            waited_ns: time from submission to the batch, the sum over the requests.
            times_ns: time of the batch to join the inputs, to run the model, to part the outputs.
        """
        self.last_inference_ms = self._clock_ms()
        self.inferences += rows
        self.executions += 1
        self.success.add(requests, waited_ns + requests * sum(times_ns))
        self.queue.add(requests, waited_ns)
        size = self.by_size.get(rows) or self.by_size.setdefault(rows, Batches())
        for batches, count in ((self.compute, requests), (size, 1)):
            batches.compute_input.add(count, count * times_ns[0])
            batches.compute_infer.add(count, count * times_ns[1])
            batches.compute_output.add(count, count * times_ns[2])
