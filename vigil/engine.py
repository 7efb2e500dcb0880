"""One domain's engine: event -> features -> score -> decision. The only place where these meet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from vigil.decisions import record
from vigil.decisions.decision import Decision
from vigil.decisions.policy import FULL, Decider
from vigil.decisions.recorder import Recorder
from vigil.decisions.rules import RULES, RulesTier
from vigil.domains.schema import Feedback, Schema, times_ms
from vigil.domains.spec import Domain
from vigil.domains.times import LEAST_MS, Times
from vigil.errors import ConfigError, Conflict, InvalidEvent, Unavailable
from vigil.features.compiled import layout
from vigil.features.memory.store import MemoryStore
from vigil.features.open import open_state
from vigil.observe import metrics
from vigil.scoring.batcher import Batcher, Limits
from vigil.scoring.caller import PIECE_ROWS, Caller, one_by_one, pieces, run_for
from vigil.scoring.queue import Priority
from vigil.scoring.served import ServedModel
from vigil.scoring.session import Rows, Session
from vigil.settings import Settings

STATUS_NAMES = ("new", "late", "too_late", "repeat", "recomputed", "labelled", "label_known", "label_waits", "conflict")
Submission = tuple[Sequence[Any], bool, int]  # events, whether with features, place of the first in its call
_encode = msgspec.json.Encoder().encode


class Taken(NamedTuple):
    """Events of a batch, the model that is to answer, and what is known of them where they have counted.

    `packed` is what the store makes of the events before they count.
    """

    events: list[Any]
    session: Session | None
    packed: Any
    counted: Scored | None


class Scored(NamedTuple):
    """What is known of the n events of a batch.

    Features float32 [n, F] and risks are None where the state (the model) is not there. `refused` says by its place why
    an event has not counted.
    """

    features: npt.NDArray[np.float32] | None
    risks: Rows | None
    refused: Mapping[int, Conflict] = {}


class Decided(NamedTuple):
    """Decisions on the n events of a batch that are not `refused`, and what they were made from.

    Features are float32 [n, F], None where the state was away; the model is None where rules decided.
    """

    events: list[Any]
    decisions: list[Decision]
    features: npt.NDArray[np.float32] | None
    session: Session | None
    refused: Mapping[int, Conflict] = {}


class Store(Protocol):
    """Feature state of a domain, wherever it lies.

    Its verbs may raise Unavailable. Those of a `remote` one wait for a server and may be called in any thread. `marks`
    says how far each source of events has been read into it; None where it belongs to several processes.
    """

    remote: bool

    @property
    def problem(self) -> str: ...

    @property
    def marks(self) -> Mapping[str, int] | None: ...

    def watch(self, changed: Callable[[], object]) -> None: ...

    def mark(self, marks: Mapping[str, int]) -> None: ...

    @property
    def newest_ms(self) -> int: ...

    def pack(self, events: Sequence[Any], times: Times) -> Any: ...

    def apply(self, packed: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]: ...

    def remembers(self, event_ids: Sequence[str | int]) -> list[bool]: ...

    def conflict(self, packed: Any, place: int, event_id: str | int, at: str = "") -> Conflict: ...

    def feedback(self, labels: Sequence[Feedback]) -> npt.NDArray[np.uint8]: ...


class Engine:
    """Scores events of one domain; without a model the rules tier answers.

    Args:
        domain: whose events.
        settings: limits of queue, batch and time.
        store: the feature state.
        model: the domain's model.
        clock_ms: gives the time, epoch milliseconds UTC.
        close: brings the store to disk and gives it free.
        recorder: gets a record of each decision that is submitted, if any.
    """

    def __init__(
        self,
        domain: Domain,
        settings: Settings,
        store: Store,
        model: ServedModel,
        clock_ms: Callable[[], int],
        close: Callable[[], None],
        recorder: Recorder | None = None,
    ) -> None:
        self.domain, self.schema = domain, Schema(domain)
        self.store, self.model = store, model
        self._decider, self._rules = Decider(domain), RulesTier(domain)
        self._max_future_ms = settings.max_future_s * 1000
        self.max_past_ms = settings.max_past_s * 1000 if settings.max_past_s is not None else domain.grace_ms
        self._clock_ms = clock_ms
        self._close, self._recorder = close, recorder
        self._events: Batcher[Submission, Taken, Scored, list[Decision]] = Batcher(
            lambda batch: self._take(batch, self.times(self._clock_ms())),
            self._score,
            self._answer,
            limits_of(settings),
            metrics.BatchMetrics(domain.name, "events"),
            model.session.row_s if model.session else 0.0,
            waits=store.remote,
        )
        self._feature_seconds = metrics.STAGE_SECONDS.labels(domain.name, "features")
        self._model_seconds = metrics.STAGE_SECONDS.labels(domain.name, "model")
        self._without_state = metrics.EVENTS.labels(domain.name, "state_away")
        self._too_old = metrics.EVENTS.labels(domain.name, "too_old")
        self._statuses = [
            (metrics.LABELS if "label" in name else metrics.EVENTS).labels(domain.name, name)
            for i, name in enumerate(STATUS_NAMES)
        ]

    @classmethod
    def open(
        cls, domain: Domain, settings: Settings, clock_ms: Callable[[], int], recorder: Recorder | None = None
    ) -> Engine:
        """An engine over the stored state and the stored model.

        A missing or refused model is no failure: the engine answers from the rules tier and says why.

        Raises:
            StateError: where the state cannot be used.
            ConfigError: where events may be further ahead of the clock than behind others.
        """
        if domain.grace_ms < settings.max_future_s * 1000:
            raise ConfigError(
                f"VIGIL_MAX_FUTURE_S={settings.max_future_s}: wanted at most the {domain.grace_ms // 1000} s of "
                f"{domain.name}'s grace_days, or one event ahead of the clock would make an entity's others too late"
            )
        model = ServedModel.open(domain, settings.model_alias, limits_of(settings), clock_ms, settings.model_trust)
        # Loads the compiled kernel, which otherwise the first caller would wait for, and what lets state grow: later,
        # there may be no descriptor for it.
        warm = MemoryStore(domain)
        warm.apply(warm.pack([warm.schema.make(domain.example)]))
        warm.remembers([domain.example["event_id"]])
        warm.state.adopt(warm.compacted())
        state = open_state(domain, settings)
        return cls(domain, settings, state.store, model, clock_ms, state.close, recorder)

    def close(self) -> None:
        """Ends the model's threads, brings the store to disk and gives it free."""
        self._events.close()
        self.model.close()
        self._close()

    def check_room(self) -> None:
        """Raises Overloaded where not even one event more would be taken: cheap, before anything is decoded."""
        self._events.check()

    def submit(
        self,
        events: Sequence[Any],
        caller: Caller[list[Decision]],
        with_features: bool = False,
        deadline_s: float | None = None,
    ) -> None:
        """Decisions on events of one caller, in order, scored together with those of other callers.

        Args:
            events: of the domain's schema.
            caller: gets the decisions.
            with_features: whether the decisions shall hold the values of the features.
            deadline_s: when the caller gives up, of `time.perf_counter`; None: never.

        Raises:
            Overloaded: where the queue is full.
            DeadlineExceeded: also to the caller, where it is too late to begin; then no event has counted.
            InvalidEvent: to the caller, for a value that cannot be; then none of `events` has counted.
            Conflict: to the caller, for an id that has come with another content; the others have counted.
        """
        count = len(events)
        if count <= PIECE_ROWS:
            self._events.enqueue((events, with_features, 0), caller, count, Priority.of(count), deadline_s)
            return
        self._events.check(PIECE_ROWS)  # no more of them ever wait at once
        run_for(caller, self._in_pieces(events, caller, with_features, deadline_s))

    async def _in_pieces(
        self, events: Sequence[Any], caller: Caller[list[Decision]], with_features: bool, deadline_s: float | None
    ) -> list[Decision]:
        """As `submit` of more than a piece. All are looked at before the first counts."""
        parts = list(pieces(len(events)))
        for part in parts:
            times = self.times(self._clock_ms())
            for i, event in enumerate(events[part], part.start):
                try:
                    self.schema.row(event, f"[{i}]", times)
                except InvalidEvent:
                    self.schema.row(event, f"[{i}]", self._times_for([event], times))
            await asyncio.sleep(0)

        def begin(part: slice, each: Caller[list[Decision]]) -> None:
            until_s = None if part.start else deadline_s
            self._events.enqueue(
                (events[part], with_features, part.start), each, len(events[part]), Priority.BULK, until_s
            )

        return [decision for found in await one_by_one(parts, begin, caller) for decision in found]

    def decide(self, events: Sequence[Any], now_ms: int) -> Decided:
        """Decides on events at once: one call of the kernel, one of the model. With all that a record holds.

        However late they are: who brings a stream knows what is late in it.

        Raises:
            InvalidEvent: for a value that cannot be, or a time that no event can have; then none has counted.
            Unavailable: where the feature state is away: who can read its events again shall wait for it.
        """
        taken = self._take([(events, False, 0)], self.times(now_ms).however_late)
        scored = self._score(taken)
        if scored.features is None:
            raise Unavailable(f"feature state: {self.state_problem or 'it did not answer in time'}")
        return self._decide(taken, scored)

    def decide_late(self, events: Sequence[Any]) -> Decided:
        """Decides by rules on events that came too late for their features to mean anything; none counts."""
        self._too_old.inc(len(events))
        return self._decide(Taken(list(events), None, None, None), Scored(None, None), late=True)

    def records(self, decided: Decided, events: Iterable[bytes], with_features: bool = True) -> list[bytes]:
        """The record of each decision, JSON.

        Args:
            decided: of one batch.
            events: JSON of each event, as it came.
            with_features: whether they hold the features, without which they cannot be replayed.
        """
        digest, features = decided.session.digest if decided.session else "", decided.features
        kept = features if with_features else None
        return record.encode_records(self.domain, digest, decided.decisions, events, kept)

    def refusal(self, event: Any, now_ms: int) -> InvalidEvent | None:
        """Why an event cannot be scored, be it late or not; None where it can. Nothing counts."""
        try:
            self.schema.row(event, "", self.times(now_ms).however_late)
        except InvalidEvent as failure:
            return failure
        return None

    def times(self, now_ms: int) -> Times:
        """Between which times an event may lie that comes now, epoch milliseconds UTC.

        The newest that has counted may be ahead of the clock, but nobody else's is too old for that.
        """
        newest_ms = min(self.store.newest_ms, now_ms)
        return Times(max(LEAST_MS, newest_ms - self.max_past_ms), now_ms + self._max_future_ms, newest_ms)

    def feedback(self, labels: Sequence[Feedback]) -> list[str]:
        """Takes true labels; says of each "labelled", "label_known" or "label_waits" (for its event).

        Raises:
            Unavailable: where the feature state is away; the labels are to be sent again.
        """
        return self._status_names(self.store.feedback(labels))

    async def learn(self, labels: Sequence[Feedback]) -> list[str]:
        """As `feedback`; the loop goes on meanwhile where there are many, or the state has to be waited for."""
        if self.store.remote:
            return self._status_names(await asyncio.to_thread(self.store.feedback, labels))
        statuses = list[str]()
        for part in pieces(len(labels)):
            statuses += self.feedback(labels[part])
            if part.stop < len(labels):
                await asyncio.sleep(0)
        return statuses

    def _status_names(self, statuses: npt.NDArray[np.uint8]) -> list[str]:
        self._count(statuses)
        return [STATUS_NAMES[status] for status in statuses.tolist()]

    @property
    def state_problem(self) -> str:
        """Why features cannot be computed now; "" where they can."""
        return self.store.problem

    def watch_state(self, changed: Callable[[], object]) -> None:
        """Has `changed` called, in any thread, when `state_problem` has changed."""
        self.store.watch(changed)

    def _take(self, batch: Sequence[Submission], times: Times) -> Taken:
        events = [event for part, _, _ in batch for event in part]
        try:
            try:
                packed = self.store.pack(events, times)
            except InvalidEvent:
                packed = self.store.pack(events, times := self._times_for(events, times))
            # Those of a remote store come where waiting is allowed.
            counted = None if self.store.remote else self._apply(events, packed)
            return Taken(events, self.model.session, packed, counted)
        except InvalidEvent as failure:
            raise self._locate(events, times) or failure from None
        except Unavailable:
            self._without_state.inc(len(events))
            return Taken(events, self.model.session, None, Scored(None, None))

    def _times_for(self, events: Sequence[Any], times: Times) -> Times:
        """`times` as they hold for events that may have come before: what has counted is answered again."""
        try:
            late = times_ms([event.ts for event in events]) < times.earliest_ms
        except (ValueError, OverflowError):
            return times
        known = self.store.remembers([event.event_id for event in compress(events, late.tolist())])
        return times.however_late if all(known) else times

    def _apply(self, events: Sequence[Any], packed: Any) -> Scored:
        """Features of events, which then have counted; none where the state is away."""
        started_s = perf_counter()
        try:
            features, statuses = self.store.apply(packed)
        except Unavailable:
            self._without_state.inc(len(events))
            return Scored(None, None)
        self._feature_seconds.observe(perf_counter() - started_s)
        if not self._count(statuses)[layout.CONFLICT]:
            return Scored(features, None)
        places = np.flatnonzero(statuses == layout.CONFLICT).tolist()
        refused = {place: self.store.conflict(packed, place, events[place].event_id) for place in places}
        return Scored(features, None, refused)

    def _score(self, taken: Taken) -> Scored:
        session, counted = taken.session, taken.counted
        if counted is None:
            counted = self._apply(taken.events, taken.packed)
        if session is None or counted.features is None:
            return counted
        started_s = perf_counter()
        risks = session.run(counted.features)
        self._model_seconds.observe(perf_counter() - started_s)
        return counted._replace(risks=risks)

    def _answer(self, batch: Sequence[Submission], taken: Taken, scored: Scored) -> list[list[Decision] | Exception]:
        decided = self._decide(taken, scored)
        if self._recorder and decided.decisions:
            records = self.records(decided, map(_encode, decided.events))
            self._recorder.put([event.event_id for event in decided.events], records)
        return self._split(batch, decided)

    def _decide(self, taken: Taken, scored: Scored, late: bool = False) -> Decided:
        events, session = taken.events, taken.session
        features, risks, refused = scored
        if refused:
            kept = [place for place in range(len(events)) if place not in refused]
            events = [events[place] for place in kept]
            features = None if features is None else features[kept]
            risks = None if risks is None else risks[kept]
        if session is None or features is None or risks is None:
            tier, session, decisions = RULES, None, self._rules.decide(events, late)
        else:
            self.model.observe(session, risks)
            tier, decisions = FULL, self._decider.decide(events, risks.tolist(), features, session.tag)
        metrics.decided(self.domain.name, tier, [decision.action for decision in decisions])
        return Decided(events, decisions, features, session, refused)

    def _split(self, batch: Sequence[Submission], decided: Decided) -> list[list[Decision] | Exception]:
        decisions, features, refused = decided.decisions, decided.features, decided.refused
        answers, start, place = list[list[Decision] | Exception](), 0, 0
        for part, with_features, first in batch:
            of_part = [at for at in range(place, place + len(part)) if at in refused] if refused else []
            end = start + len(part) - len(of_part)
            if of_part:
                several = first or len(part) > 1
                answers.append(refused[of_part[0]].at(f"[{first + of_part[0] - place}]" if several else ""))
                start, place = end, place + len(part)
                continue
            if with_features and features is not None:
                for decision, row in zip(decisions[start:end], features[start:end].tolist(), strict=True):
                    decision.features = dict(zip(self.domain.feature_names, row, strict=True))
            answers.append(decisions[start:end])
            start, place = end, place + len(part)
        return answers

    def _locate(self, events: Sequence[Any], times: Times) -> InvalidEvent | None:
        """The failure of the first bad event of several, with its place in front."""
        for i, event in enumerate(events):
            at = f"[{i}]" if len(events) > 1 else ""
            try:
                self.schema.row(event, at, times)
            except InvalidEvent as failure:
                return failure
        return None

    def _count(self, statuses: npt.NDArray[np.uint8]) -> list[int]:
        counts: list[int] = np.bincount(statuses, minlength=len(STATUS_NAMES)).tolist()
        for status, count in enumerate(counts):
            if count:
                self._statuses[status].inc(count)
        return counts


def limits_of(settings: Settings) -> Limits:
    """The bounds of a domain's batchers."""
    return Limits(settings.max_batch, settings.max_queue, settings.max_wait_ms / 1000)
