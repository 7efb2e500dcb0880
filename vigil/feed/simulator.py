"""A domain's simulated events as a live stream, with the labels that come to be known on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

from vigil.domains.spec import DAY_MS, Domain
from vigil.errors import ConfigError


@dataclass(frozen=True)
class Simulated:
    """One step of the stream: an event with its truth, or (where `event` is None) a label that became known.

    Attributes:
        event_id: of the event, or of the earlier one that the label is for.
        event: fields of the event, ready for JSON.
        label: the truth: 1 for a bad event.
        value: what is lost if it is bad and let through, in the policy's money.
    """

    event_id: str
    event: dict[str, Any] | None
    label: int
    value: float


def stream(domain: Domain, seed: int, first_day: int, **sizes: int) -> Iterator[Simulated]:
    """The simulated world's steps from `first_day` on, without end.

    Labels come `label_delay_days` of simulated time after their event.

    Args:
        seed: of the world: the one the history was made with, so that the stream goes on where that ended.
        first_day: counted from the world's first day.
        sizes: `customers` and `terminals`, as far as the domain's simulation knows them.

    Raises:
        ConfigError: where the domain has no simulation.
    """
    if domain.simulate is None:
        raise ConfigError(f"domain {domain.name} declares no simulation")
    # A day is made while the one before it is sent, so that a live feed does not falter at midnight.
    waiting: deque[tuple[int, Simulated]] = deque()
    with ThreadPoolExecutor(1) as maker:
        tomorrow = maker.submit(domain.simulate, seed, first_day, 1, **sizes)
        for day in count(first_day + 1):
            made, tomorrow = tomorrow.result(), maker.submit(domain.simulate, seed, day, 1, **sizes)
            yield from _steps(domain, made, waiting)


def _steps(domain: Domain, made: Any, waiting: deque[tuple[int, Simulated]]) -> Iterator[Simulated]:
    """One day's events, and the `waiting` labels whose time has come; new ones are put there."""
    delay_ms = round(domain.label_delay_days * DAY_MS)
    entities = [entity.name for entity in domain.entities]
    numbers = [number.name for number in domain.numbers]
    columns = [made.event_ids, made.ts_ms, *(made.keys[name] for name in entities)]
    columns += [*(made.numbers[name] for name in numbers), made.labels]
    for event_id, ts, *values, label in zip(*(column.tolist() for column in columns), strict=True):
        while waiting and waiting[0][0] <= ts:
            yield waiting.popleft()[1]
        event = {"event_id": str(event_id), "ts": ts} | dict(zip([*entities, *numbers], values, strict=True))
        value = abs(float(event[domain.policy.money]))
        yield Simulated(str(event_id), event, label, value)
        waiting.append((ts + delay_ms, Simulated(str(event_id), None, label, value)))
