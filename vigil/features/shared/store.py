"""The shared store: a domain's feature state in Redis, Valkey or a cluster of them, for any number of processes.

One kernel computes, here; the server keeps bytes and guards them. An entity is a log of its records
(`entity_log.py`), an event is what is remembered of it: label, time, entities and the features it was answered with.
Entities stay loaded in the process that used them, so a micro-batch of events commonly is one round trip: the
commit (`scripts.py`), which looks whether all logs still have the versions the features were computed from and
none of the events is known, and only then writes. Where something has changed, nothing is written by that
command; what was touched is loaded anew and computed again.

**Exactly once.** On one server a micro-batch is one script: all of it counts or nothing. On a cluster the keys of
an event lie on several servers, so a commit is a command for each bucket of keys, in stages: the logs of the first
entity, of the second (whose records may carry features of the first), ..., last what is remembered. What may
happen in between, and why each event still counts once with each of its entities:

- Every command is a compare-and-set of its own keys, so no update of a log is lost.
- A record is in a log with its event's key. Whoever applies an event first sees which of its entities hold it and
  writes only to those that do not (the kernel does the same with what it holds), so an event that was half written,
  or whose answer got lost, is completed by its retry and counted nowhere twice.
- An event is remembered only when all its logs hold it. So "remembered" means complete, and an event that is not
  remembered is looked for in the logs. Two that write one event at the same time meet at the first log: one is
  stale there, loads the other's record and goes on with what is missing; the first to be remembered gives the answer.
- Carried values come from features that are final: a stage begins when the one before it has passed.
- A label is appended to the logs first and then put with the event, under a check of the label it replaces; who
  loses that race appends again. A label that comes while its event is on its way makes the last stage stale, and
  the event is gone through again with the label.

A completed event is computed from the records as they are then: like any event that comes late, within the grace it
gets what it would have got in time. So after all retries both hold every event once, and on one server every answer
is that of some order of the events. On a cluster the answer is so for each entity on its own: two events of the same
two entities, written by two processes at the same instant, may be ordered one way with one entity and the other way
with the other.

What no window sees any more is left out when a log is written anew, which happens when half of it is not needed.
A log lives as long after its entity's last event as the longest window looks back, and an event for `feedback_days`;
then the server drops them.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, Self

import numpy as np

from vigil.domains.schema import Feedback, Schema, key_of
from vigil.domains.spec import Domain
from vigil.domains.times import ANY_TIME, Times
from vigil.errors import Conflict, Unavailable
from vigil.features.compiled import layout
from vigil.features.compiled.conflicts import conflict
from vigil.features.compiled.state import Event, Features, Status
from vigil.features.shared import scripts
from vigil.features.shared.cache import REFRESH, Loaded, Remembered
from vigil.features.shared.common import Common
from vigil.features.shared.connection import Again, Command, Link, Pending
from vigil.features.shared.reads import Reader
from vigil.features.shared.scripts import Writes
from vigil.features.shared.turns import Turn
from vigil.features.shared.writes import PackedEvents, guard, plan_events, plan_labels
from vigil.settings import Settings

MOST_AT_ONCE = 512  # events or labels of one commit: a server does nothing else meanwhile
FEW_AT_ONCE = 16  # a batch of so many is tried again at once; a larger one would meet others again
PARTS_A_TURN = 8  # where others wait for theirs
IN_FLIGHT = 2  # commits that the server has before it: it never waits for one, nor does anything else for long
WARY_FOR = 64  # so many batches look first for what others have changed, after one that met it


class SharedState:
    """A domain's shared store together with its connection. Close it when done.

    Args:
        domain: whose state.
        settings: address and bound of time. A server that is away now is no failure: it is asked until it answers.

    Raises:
        ConfigError: for an address that cannot be.
    """

    def __init__(self, domain: Domain, settings: Settings) -> None:
        self.store = SharedStore(domain, Link(settings.state_url, settings.state_timeout_ms), settings.state_timeout_ms)
        self.store.link.open()
        with suppress(Unavailable):  # else with the first events
            self.store.common.meet()
        self.close = self.store.link.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Plan(NamedTuple):
    """Events, their features and what became of them, and the writes that make it so, stage by stage."""

    batch: PackedEvents
    answer: tuple[Features, Status]
    stages: list[list[Writes]]


class SharedStore:
    """As `vigil.features.memory.store.MemoryStore`, with the state on a server. Threads may share it.

    Args:
        domain: whose features these are.
        link: to the server.
        timeout_ms: how long a batch may take to get through, conflicts with others included.
    """

    remote = True
    marks = None  # the groups of Kafka know how far all have read

    def __init__(self, domain: Domain, link: Link, timeout_ms: int) -> None:
        self.domain, self.link = domain, link
        self.schema = Schema(domain)
        self.conflicts = 0
        self._timeout_s = timeout_ms / 1000
        self.prefix = f"vigil:{domain.name}:{domain.spec_hash[:8]}:".encode()
        self._loaded = Loaded(domain, self.prefix)
        Loaded(domain, self.prefix).warm()
        self._guard = threading.Lock()
        self._script, self._reader = link.script(scripts.SOURCE), Reader(link)
        refresh_s = self._loaded.refresh_ms / 1000
        self.log_s = round(refresh_s * (REFRESH + 2) + 86_400)  # a day more: clocks may be ahead
        self.event_s = max(1, round(domain.feedback_days * 86_400))
        self._wary = WARY_FOR if link.cluster else 0
        self.common = Common(link, self.prefix, self.log_s + self.event_s)
        self._turn, self._turns = Turn(link, self.prefix, self._timeout_s / 2), 0

    @property
    def problem(self) -> str:
        """Why nothing can be computed now; "" where it can."""
        return self.link.problem

    @property
    def newest_ms(self) -> int:
        """As `MemoryStore.newest_ms`, as far as is known here: others are asked every second."""
        return self.common.newest_ms

    def mark(self, marks: Mapping[str, int]) -> None:
        """As `MemoryStore.mark`; here nobody asks for them."""

    def watch(self, changed: Callable[[], object]) -> None:
        """Has `changed` called, in any thread, when `problem` has changed."""
        self.link.changed = changed

    def apply_events(self, events: Sequence[Any]) -> tuple[Features, Status]:
        """As `MemoryStore.apply_events`.

        Raises:
            InvalidEvent: for a value that cannot be; then no event of the batch has counted.
            Unavailable: as `apply`.
        """
        return self.apply(self.pack(events))

    def pack(self, events: Sequence[Any], times: Times = ANY_TIME) -> PackedEvents:
        """As `MemoryStore.pack`.

        Raises:
            InvalidEvent: for a value that cannot be.
        """
        return PackedEvents.of(self.schema, events, times)

    def apply(self, batch: PackedEvents) -> tuple[Features, Status]:
        """Features of packed events, which then count for those after them; more than `MOST_AT_ONCE` in parts.

        Raises:
            Unavailable: where the server is away or answers too late; whether events have counted is not
                known then, and applying them again is safe.
        """
        count = len(batch.values)
        if not count:
            return np.empty((0, len(self.domain.features)), np.float32), np.empty(0, np.uint8)
        with self._guard:
            batch = batch.keyed(self._seed())
            if self._loaded.full:
                self._loaded = Loaded(self.domain, self.prefix)
            parts = [batch.part(at, at + MOST_AT_ONCE) for at in range(0, count, MOST_AT_ONCE)]
            if self.link.cluster or len(parts) == 1:
                answers = [self._apply(part) for part in parts]
            else:
                answers = self._in_parts(batch, parts)
            self.common.saw(int(batch.values[:, 1].max()))
            return _join(answers)

    def feedback(self, labels: Iterable[Feedback]) -> Status:
        """As `MemoryStore.feedback`; more than `MOST_AT_ONCE` in parts.

        Raises:
            Unavailable: as `apply`.
        """
        with self._guard:
            seed = self._seed()
            given = [(key_of(item.event_id, seed), item.label) for item in labels]
            starts = range(0, max(1, len(given)), MOST_AT_ONCE)
            return np.concatenate([self._feedback(given[at : at + MOST_AT_ONCE]) for at in starts])

    def remembers(self, event_ids: Sequence[str | int]) -> list[bool]:
        """As `MemoryStore.remembers`, as far as can be told without asking a server: never."""
        return [False] * len(event_ids)

    def conflict(self, packed: PackedEvents, place: int, event_id: str | int, at: str = "") -> Conflict:
        """As `MemoryStore.conflict`."""
        with self._guard:
            part = packed.part(place, place + 1).keyed(self.schema.seed)
            [[key, ts_ms, *quanta]], [rows] = part.values.tolist(), self._loaded.rows(part.keys).tolist()
            now = Event(key, -1, ts_ms, rows=rows, quanta=quanta)
            return conflict(self.domain, event_id, self._loaded.state.recall(key), now, at)

    def _seed(self) -> int:
        """The seed of event keys, which all processes share."""
        self.common.meet()
        if self.schema.seed != self.common.seed:
            self.schema.seed = self.common.seed
        return self.common.seed

    def _feedback(self, given: Sequence[tuple[int, int]]) -> Status:
        """What becomes of labels, key and label of each, that are written together."""
        until_s = time.monotonic() + self._timeout_s
        told: Status | None = None
        while True:
            begun_s = time.monotonic()
            try:
                remembered = self._reader.read(self._loaded, [], list(dict.fromkeys(key for key, _ in given)))
                status, writes, pairs = plan_labels(self._loaded, given, remembered)
                if told is not None:  # what is known now may be what an earlier try has written
                    status = np.where(status == layout.LABEL_KNOWN, told, status)
                told = status
                self._loaded.drop(pairs)
                if not any(map(self._commit, self._stages_of(writes))):
                    return status
            except Again:
                pass
            self.conflicts += 1
            self._step_aside(begun_s, until_s)

    def _in_parts(self, batch: PackedEvents, parts: Sequence[PackedEvents]) -> list[tuple[Features, Status]]:
        """Applies a large batch, in turn with other processes that have such ones."""
        done: list[tuple[Features, Status]] = []
        while (first := len(done)) < len(parts):
            with self._turn.taken() as others:
                self._wary = max(self._wary, others)
                end = first + PARTS_A_TURN if others else len(parts)
                with suppress(Again):  # all at once: in between the server is busy writing
                    self._look(batch.part(first * MOST_AT_ONCE, end * MOST_AT_ONCE))
                for answer in self._one_behind_the_other(parts[first:end]):
                    done.append(answer or self._apply(parts[len(done)], again=True))
        return done

    def _one_behind_the_other(self, parts: Sequence[PackedEvents]) -> list[tuple[Features, Status] | None]:
        """Computes and sends parts while the server writes those before, as if these will pass.

        What does not pass takes with it what is behind it, which looks for it: the events keep their order.

        Returns:
            answers, None for what has not been written. No part is sent after one that is known not to be.
        """
        done: list[tuple[Features, Status] | None] = []
        flying: deque[tuple[Plan, Pending]] = deque()
        try:
            for part in parts:
                planned = self._plan(part)
                if len(flying) == IN_FLIGHT:
                    done.append(self._finish(*flying.popleft()))
                    if done[-1] is None:
                        self._drop(part)
                        break
                before, pending = flying[-1] if flying else (None, None)
                writes = planned.stages[0] + (guard(self._loaded, before.stages[0]) if before else [])
                flying.append((planned, self.link.begin(self._commands_of(writes), pending)))
            while flying:
                done.append(self._finish(*flying.popleft()))
        except BaseException:
            for _, pending in flying:
                self.link.abandon(pending)
            self._loaded = Loaded(self.domain, self.prefix)
            raise
        return done

    def _finish(self, planned: Plan, pending: Pending) -> tuple[Features, Status] | None:
        """The answer of a commit on its way, or None where it has not been written; what it touched is dropped then."""
        with suppress(Again):
            if not any(self.link.finish(pending)):
                return planned.answer
            self.conflicts += 1
            self._wary = WARY_FOR
        self._drop(planned.batch)
        return None

    def _apply(self, batch: PackedEvents, again: bool = False) -> tuple[Features, Status]:
        """Applies events together; where others keep being in the way, in turn with them.

        Args:
            again: whether they have been tried before: then they may be known.
        """
        until_s = time.monotonic() + self._timeout_s
        while True:
            begun_s, looked = time.monotonic(), self._wary > 0
            try:
                in_turn = self._turns and len(batch.values) > FEW_AT_ONCE
                with self._turn.taken() if in_turn else nullcontext(False) as others:
                    self._wary = max(self._wary, others)
                    known = self._look(batch, again)
                    planned = self._plan(batch, known)
                    stale = any(map(self._commit, planned.stages))
                self._turns, again = max(self._turns - 1, 0), True
                if not stale:
                    return planned.answer
                self._drop(batch)
                self.conflicts += 1
                self._wary = WARY_FOR
                if looked and len(batch.values) > FEW_AT_ONCE:
                    self._turns = WARY_FOR
            except Again:
                self._drop(batch)
            except BaseException:
                self._drop(batch)
                raise
            self._step_aside(begun_s, until_s)

    def _look(self, batch: PackedEvents, again: bool = False) -> dict[int, Remembered]:
        """Reads all that events need: entities not loaded and, where that is wise, what others have changed.

        Returns:
            what is remembered of the events: on one server it is guessed that they are new.
        """
        rows = self._loaded.rows(batch.keys)
        wanted = self._loaded.missing(batch.keys, rows)
        events = list(dict.fromkeys(batch.values[:, 0].tolist())) if again or self.link.cluster else []
        held = np.unique(rows[rows >= 0]) if self._wary else rows[:0, 0]
        self._wary = max(self._wary - 1, self.link.cluster)
        return self._reader.read(self._loaded, wanted, events, held)

    def _plan(self, batch: PackedEvents, known: dict[int, Remembered] | None = None) -> Plan:
        """What to write for events, of which `known` is remembered."""
        rows = self._loaded.rows(batch.keys)
        if rows.min() < 0:  # dropped since it was looked for
            self._reader.read(self._loaded, self._loaded.missing(batch.keys, rows))
            rows = self._loaded.rows(batch.keys)
        features, status, writes = plan_events(self._loaded, batch.values, rows, known or {})
        return Plan(batch, (features, status), self._stages_of(writes))

    def _drop(self, batch: PackedEvents) -> None:
        """Has loaded anew what events touch."""
        self._loaded.drop((e, str(key)) for e, keys in enumerate(batch.keys) for key in keys)

    def _stages_of(self, stages: list[Writes]) -> list[list[Writes]]:
        """One server takes all stages as one."""
        return [[writes] for writes in stages] if self.link.cluster else [stages]

    def _step_aside(self, begun_s: float, until_s: float) -> None:
        """Lets others go first: for some part, by chance, of the time a try has taken."""
        now_s = time.monotonic()
        if now_s > until_s:
            raise Unavailable(
                f"feature state {self.link.shown}: could not be written within {self._timeout_s * 1000:.0f} ms: "
                "others kept changing the same entities, or slots of the cluster are moving; try again"
            )
        time.sleep(random.random() * (now_s - begun_s))

    def _commit(self, parts: Sequence[Writes]) -> bool:
        """Writes all of each group of keys, or nothing of it where a key is not as it was. Whether one was not."""
        commands = self._commands_of(parts)
        return bool(commands) and any(self.link.call(commands))

    def _commands_of(self, parts: Sequence[Writes]) -> list[Command]:
        """The commands of a commit; what is loaded then counts as written."""
        commands: list[Command] = []
        for group, places in self.link.groups(np.concatenate([part.buckets for part in parts])):
            of_group = [part.take(places) for part in parts] if self.link.cluster else parts
            commands.append((group, scripts.command(self._script, of_group, self.log_s, self.event_s)))
        for part in parts:
            self._loaded.acknowledge(part)
        return commands


def _join(parts: Sequence[tuple[Features, Status]]) -> tuple[Features, Status]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([features for features, _ in parts]), np.concatenate([status for _, status in parts])
