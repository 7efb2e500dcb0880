"""Counters, gauges and histograms that cost a list's `append`, brought to `prometheus_client` a few times a second.

With several workers each `inc` of `prometheus_client` takes a lock, asks for the process id and writes to a
mapped file, and each `observe` does so twice: 3 us for a request that is answered in 15. Here a value is put
into a list; `flush` adds them up and writes each sum once. What a killed process had not flushed is lost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from threading import RLock
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import prometheus_client

MOST_KEPT = 1024
MANY = 256  # values that are worth being counted by themselves

Child = TypeVar("Child", bound="_Tally")
# A thread that runs the model may flush what it has filled while the loop flushes all.
_flushing = RLock()
_tallies: list[_Tally] = []


class _Tally:
    """One time series; a list takes `append` from any thread without a lock."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        with _flushing:
            _tallies.append(self)

    def flush(self) -> None:
        """Writes what was kept."""
        with _flushing:
            count = len(self._kept)
            if count:
                values = self._kept[:count]
                del self._kept[:count]
                self._write(values)

    def _keep(self, value: Any) -> None:
        kept = self._kept
        kept.append(value)
        if len(kept) >= MOST_KEPT:
            self.flush()

    def _write(self, values: list[Any]) -> None:
        raise NotImplementedError


class CounterTally(_Tally):
    """A counter of one set of labels."""

    def __init__(self, counter: prometheus_client.Counter) -> None:
        super().__init__()
        self._counter = counter

    def inc(self, amount: float = 1.0) -> None:
        """Counts `amount`."""
        self._keep(amount)

    def _write(self, values: list[float]) -> None:
        self._counter.inc(sum(values))


class GaugeTally(_Tally):
    """A gauge of one set of labels; only the last value is ever written."""

    def __init__(self, gauge: prometheus_client.Gauge) -> None:
        super().__init__()
        self._gauge = gauge
        gauge.set(0)
        self._written = self.value = 0.0

    def set(self, value: float) -> None:
        """What is true from now on. `value` may as well be counted up and down by its owner."""
        self.value = value

    def flush(self) -> None:
        """Writes the value, where it is another."""
        with _flushing:
            value = self.value
            if value != self._written:
                self._gauge.set(value)
                self._written = value


class Buckets(prometheus_client.Histogram):
    """A histogram that takes many observations at once.

    `prometheus_client` offers `observe` alone. `_buckets` and `_sum` are what its `observe` writes to, a
    count a bucket and the sum; a test holds this class against `observe`.
    """

    def observe_all(self, values: Sequence[float]) -> None:
        """As `observe` of each of the values."""
        ordered, below = sorted(values), 0
        self._sum.inc(sum(ordered))
        for i, bound in enumerate(self._upper_bounds):
            up_to = bisect_right(ordered, bound)
            if up_to > below:
                self._buckets[i].inc(up_to - below)
                below = up_to


class HistogramTally(_Tally):
    """A histogram of one set of labels."""

    def __init__(self, histogram: Buckets) -> None:
        super().__init__()
        self._histogram = histogram

    def observe(self, value: float) -> None:
        """Counts one observation."""
        self._keep(value)

    def _write(self, values: list[float]) -> None:
        self._histogram.observe_all(values)


class CallTally(_Tally):
    """The requests of one route that ended with one status: their number and their seconds."""

    def __init__(self, counter: prometheus_client.Counter, histogram: Buckets) -> None:
        super().__init__()
        self._counter, self._histogram = counter, histogram
        self.add = self._keep

    def _write(self, values: list[float]) -> None:
        self._counter.inc(len(values))
        self._histogram.observe_all(values)


class BinsTally(_Tally):
    """How many values fell into each of several bins: from an edge up to, not including, the next.

    Args:
        edges: ascending, one fewer than there are bins.
        counters: of the bins.
    """

    def __init__(self, edges: Sequence[float], counters: Sequence[prometheus_client.Counter]) -> None:
        super().__init__()
        self._edges, self._counters = np.array(edges, np.float32), counters

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Counts the values of an array, which nobody changes from now on."""
        self._keep(values)
        if len(values) >= MANY:
            self.flush()

    def _write(self, values: list[npt.NDArray[np.float32]]) -> None:
        bins = np.searchsorted(self._edges, np.concatenate(values), side="right")
        for counter, count in zip(self._counters, np.bincount(bins, minlength=len(self._counters)), strict=True):
            if count:
                counter.inc(int(count))


class Family(Generic[Child]):
    """The time series of one name.

    Args:
        metric: of `prometheus_client`, with its label names.
        child: what a time series is kept by.
    """

    def __init__(self, metric: prometheus_client.metrics.MetricWrapperBase, child: type[Child]) -> None:
        self._metric, self._child = metric, child
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        """The time series with these values of the labels, always the same object."""
        found = self._children.get(values)
        if found is None:
            metric = self._metric.labels(*values) if values else self._metric
            found = self._children[values] = self._child(metric)  # type: ignore[call-arg]
        return found


def flush() -> None:
    """Brings all values to `prometheus_client`."""
    for tally in _tallies:
        tally.flush()
