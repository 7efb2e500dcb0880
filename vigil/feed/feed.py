"""A live feed: simulated events sent to a running service at a rate, and what came back."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter
from typing import Any

import numpy as np

from vigil.domains.spec import Policy
from vigil.errors import Unavailable, VigilError
from vigil.feed.senders import Refused, Sender
from vigil.feed.simulator import Simulated

WINDOW = 1000  # answers over which the running latencies are taken


@dataclass
class Tally:
    """What a feed has seen so far.

    Attributes:
        actions: decisions by action.
        errors: messages of refused events, counted.
        latencies_ms: of every answered event, from its sending.
        risks, labels, values: of every answered event: the service's risk, the truth, the money at stake.
        stopped: whether each event was kept from passing (reviewed or blocked).
    """

    actions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    feedbacks: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    risks: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    recent: deque[tuple[Simulated, dict[str, Any], float]] = field(default_factory=lambda: deque(maxlen=12))
    started_s: float = field(default_factory=perf_counter)

    @property
    def answered(self) -> int:
        """Events with a decision."""
        return len(self.risks)

    @property
    def rate(self) -> float:
        """Decisions a second since the start."""
        return self.answered / max(perf_counter() - self.started_s, 1e-9)

    def latency_ms(self, quantile: float, window: int = WINDOW) -> float:
        """A quantile of the latencies of the last `window` answers (0: of all), in milliseconds."""
        latencies = self.latencies_ms[-window:] if window else self.latencies_ms
        return float(np.quantile(latencies, quantile)) if latencies else 0.0

    def add(self, step: Simulated, decision: dict[str, Any], latency_ms: float, policy: Policy) -> None:
        """Counts one decision."""
        self.actions[decision["action"]] += 1
        self.degraded += bool(decision["degraded"])
        self.latencies_ms.append(latency_ms)
        self.risks.append(decision["risk"])
        self.labels.append(step.label)
        self.values.append(step.value)
        self.stopped.append(decision["action"] != policy.actions[0])
        self.recent.append((step, decision, latency_ms))

    def quality(self) -> dict[str, float]:
        """How good the decisions were, against the simulation's truth.

        Returns:
            frauds, caught (of them stopped), alarms (good events stopped), average_precision
            (area under precision over recall, as scikit-learn computes it), money at stake and money saved.
        """
        labels, stopped, values = np.array(self.labels, bool), np.array(self.stopped, bool), np.array(self.values)
        order = np.argsort(-np.array(self.risks), kind="stable")
        hits = labels[order]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        return {
            "frauds": float(labels.sum()),
            "caught": float((labels & stopped).sum()),
            "alarms": float((~labels & stopped).sum()),
            "average_precision": float(precision[hits].mean()) if hits.any() else float("nan"),
            "at_stake": float(values[labels].sum()),
            "saved": float(values[labels & stopped].sum()),
        }


async def feed(
    steps: Iterator[Simulated],
    sender: Sender,
    policy: Policy,
    rate: float,
    tally: Tally,
    most: int,
    seconds: float,
    in_flight: int = 64,
    on_answer: Callable[[], None] = lambda: None,
) -> None:
    """Sends events at `rate` a second until `most` are sent or `seconds` have passed.

    Events leave on schedule whether or not earlier ones have been answered, up to `in_flight` at once.

    Args:
        steps: events and labels, in order.
        sender: where to.
        policy: which action lets an event pass.
        rate: events a second; 0 is as fast as it goes.
        tally: filled while it runs.
        most: events to send; 0: no end.
        seconds: time to send for; 0: no end.
        in_flight: most unanswered events.
        on_answer: called after every answer.

    Raises:
        Unavailable: where the service is gone.
    """
    room = asyncio.Semaphore(in_flight)
    steps = chain([next(steps)], steps)  # what it takes to make the first is not the service's time
    started_s = tally.started_s = perf_counter()
    sent = 0
    async with asyncio.TaskGroup() as tasks:
        for step in steps:
            if step.event is not None:
                if (most and sent >= most) or (seconds and perf_counter() - started_s >= seconds):
                    break
                if rate and (early_s := started_s + sent / rate - perf_counter()) > 0:
                    await asyncio.sleep(early_s)
                sent += 1
            await room.acquire()
            tasks.create_task(_send(step, sender, policy, tally, room, on_answer))


async def _send(
    step: Simulated,
    sender: Sender,
    policy: Policy,
    tally: Tally,
    room: asyncio.Semaphore,
    on_answer: Callable[[], None],
) -> None:
    started_s = perf_counter()
    try:
        if step.event is None:
            await sender.feedback(step.event_id, step.label)
            tally.feedbacks += 1
        else:
            decision = await sender.score(step.event)
            tally.add(step, decision, (perf_counter() - started_s) * 1000, policy)
    except Refused as failure:
        tally.errors[str(failure)] += 1
    finally:
        room.release()
    on_answer()


async def wait_ready(sender: Sender, seconds: float) -> None:
    """Returns once the service is ready.

    Raises:
        Unavailable: where it is not within `seconds`.
    """
    deadline_s = perf_counter() + seconds
    while not await sender.ready():
        if perf_counter() >= deadline_s:
            raise Unavailable(f"{sender.where}: not ready after {seconds:g} s; is `bentoml serve` running?")
        await asyncio.sleep(0.05)


def first_failure(group: BaseExceptionGroup[BaseException]) -> VigilError | None:
    """The first of our own errors in what a task group raised."""
    for failure in group.exceptions:
        if isinstance(failure, VigilError):
            return failure
        if isinstance(failure, BaseExceptionGroup) and (found := first_failure(failure)):
            return found
    return None
