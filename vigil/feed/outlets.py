"""Where a simulated feed can be poured without waiting for answers: lines of a file or pipe, a topic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from vigil import settings
from vigil.domains.spec import Domain
from vigil.errors import ConfigError
from vigil.feed.simulator import Simulated
from vigil.stream.files import JsonLinesOut
from vigil.stream.topics import Topic

FLUSH_EVENTS = 1000


class Outlet(Protocol):
    """Takes the steps of a simulated feed."""

    def put(self, step: Simulated) -> None:
        """Takes one step; it may stay inside until the next flush."""

    def flush(self) -> None:
        """What was put is on its way."""

    def close(self) -> None:
        """What was put has arrived."""


class Lines:
    """Events as JSON lines; labels are left out.

    Args:
        path: the file, or None: standard output.
    """

    def __init__(self, path: Path | None) -> None:
        self._out, self._waiting = JsonLinesOut(path), list[bytes]()
        self._encode = msgspec.json.Encoder().encode

    def put(self, step: Simulated) -> None:
        """As the protocol says."""
        if step.event is not None:
            self._waiting.append(self._encode(step.event))

    def flush(self) -> None:
        """As the protocol says."""
        self._out.write(self._waiting)
        self._waiting = []

    def close(self) -> None:
        """As the protocol says."""
        self.flush()
        self._out.close()


def open_outlet(to: str, domain: Domain, feedback: str) -> Outlet:
    """The outlet that an address means: `-`, a path ending in .jsonl, or `kafka://host:port/topic`.

    Args:
        to: the address.
        domain: whose events are poured.
        feedback: the Kafka topic for labels.

    Raises:
        ConfigError: for another address.
        DataError: where the file cannot be written.
        Unavailable: where no broker answers.
    """
    if to.startswith("kafka://"):
        from vigil.feed.kafka import KafkaOutlet
        from vigil.stream.kafka import config

        return KafkaOutlet(Topic.parse(to), domain, feedback, config.read_properties(settings.load().kafka_properties))
    if to != "-" and Path(to).suffix != ".jsonl":
        raise ConfigError(f"--to {to!r}: wanted http, grpc, -, a path ending in .jsonl, or kafka://host:port/topic")
    return Lines(None if to == "-" else Path(to))


def pour(steps: Iterator[Simulated], outlet: Outlet, rate: float, count: int, seconds: float) -> int:
    """Pours steps at `rate` events a second (0: as fast as it goes) until `count` or `seconds` are over (0: no end).

    Returns:
        the number of events.
    """
    started_s, sent = time.perf_counter(), 0
    for step in steps:
        if step.event is not None:
            if (count and sent >= count) or (seconds and time.perf_counter() - started_s >= seconds):
                break
            if rate and (early_s := started_s + sent / rate - time.perf_counter()) > 0:
                outlet.flush()
                time.sleep(early_s)
            sent += 1
        outlet.put(step)
        if sent % FLUSH_EVENTS == 0:
            outlet.flush()
    outlet.close()
    return sent
