"""One domain's engine: event -> features -> score -> decision. The only place where these meet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
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
from vigil.domains.schema import Feedback, Schema, ts_ms
from vigil.domains.spec import Domain
from vigil.errors import InvalidEvent, Unavailable
from vigil.features.compiled import layout
from vigil.features.memory.store import MemoryStore
from vigil.features.open import open_state
from vigil.observe import metrics
from vigil.scoring.batcher import Batcher, Limits
from vigil.scoring.caller import PIECE_ROWS, Caller, one_by_one, pieces, run_for
from vigil.scoring.queue import LIVE_ROWS, Priority
from vigil.scoring.served import ServedModel
from vigil.scoring.session import Rows, Session
from vigil.settings import Settings

STATUS_NAMES = ("new", "late", "too_late", "repeat", "recomputed", "labelled", "label_known", "label_waits")
Submission = tuple[Sequence[Any], bool]
_TS = attrgetter("ts")
_encode = msgspec.json.Encoder().encode


class Taken(NamedTuple):
    """Events of a batch, the model that is to answer, and their features float32 [n, F] where they have counted.

    `packed` is what the store makes of the events before they count.
    """

    events: list[Any]
    session: Session | None
    packed: Any
    features: npt.NDArray[np.float32] | None


class Scored(NamedTuple):
    """Features of a batch, float32 [n, F], and risks: None where the state (the model) is not there."""

    features: npt.NDArray[np.float32] | None
    risks: Rows | None


class Decided(NamedTuple):
    """Decisions on a batch, and what they were made from: features float32 [n, F], and the model.

    Features are None where the state was away, the model where rules decided.
    """

    decisions: list[Decision]
    features: npt.NDArray[np.float32] | None
    session: Session | None


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

    def pack(self, events: Sequence[Any]) -> Any: ...

    def apply(self, packed: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]: ...

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
        self._clock_ms = clock_ms
        self._close, self._recorder = close, recorder
        self._events: Batcher[Submission, Taken, Scored, list[Decision]] = Batcher(
            lambda batch: self._take(batch, self._clock_ms()),
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
        self._statuses = [
            (metrics.EVENTS if i <= layout.RECOMPUTED else metrics.LABELS).labels(domain.name, name)
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
        """
        model = ServedModel.open(domain, settings.model_alias, limits_of(settings), clock_ms)
        # Loads the compiled kernel, which otherwise the first caller would wait for, and what lets state grow: later,
        # there may be no descriptor for it.
        warm = MemoryStore(domain)
        warm.apply(warm.pack([warm.schema.make(domain.example)]))
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
        """
        count = len(events)
        if count <= PIECE_ROWS:
            self._events.enqueue((events, with_features), caller, count, Priority.of(count), deadline_s)
            return
        self._events.check(PIECE_ROWS)  # no more of them ever wait at once
        run_for(caller, self._in_pieces(events, caller, with_features, deadline_s))

    async def _in_pieces(
        self, events: Sequence[Any], caller: Caller[list[Decision]], with_features: bool, deadline_s: float | None
    ) -> list[Decision]:
        """As `submit` of more than a piece. All are looked at before the first counts."""
        parts = list(pieces(len(events)))
        for part in parts:
            self._check_future(events[part], self._clock_ms(), part.start)
            for i, event in enumerate(events[part], part.start):
                self.schema.row(event, f"[{i}]")
            await asyncio.sleep(0)

        def begin(part: slice, each: Caller[list[Decision]]) -> None:
            until_s = None if part.start else deadline_s
            self._events.enqueue((events[part], with_features), each, len(events[part]), Priority.BULK, until_s)

        return [decision for found in await one_by_one(parts, begin, caller) for decision in found]

    def decide(self, events: Sequence[Any], now_ms: int) -> Decided:
        """Decides on events at once: one call of the kernel, one of the model. With all that a record holds.

        Raises:
            Unavailable: where the feature state is away: who can read its events again shall wait for it.
        """
        taken = self._take([(events, False)], now_ms)
        scored = self._score(taken)
        if scored.features is None:
            raise Unavailable(f"feature state: {self.state_problem or 'it did not answer in time'}")
        return self._decide(taken, scored)

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
        """Why an event cannot be scored at that time; None where it can. Nothing counts."""
        try:
            self._check_future([event], now_ms)
            self.schema.row(event)
        except InvalidEvent as failure:
            return failure
        return None

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

    def _take(self, batch: Sequence[Submission], now_ms: int) -> Taken:
        events = [event for part, _ in batch for event in part]
        try:
            self._check_future(events, now_ms)
            packed = self.store.pack(events)
            # Those of a remote store come where waiting is allowed.
            features = None if self.store.remote else self._apply(packed, len(events))
            return Taken(events, self.model.session, packed, features)
        except InvalidEvent as failure:
            raise self._locate(events) or failure from None
        except Unavailable:
            self._without_state.inc(len(events))
            return Taken(events, self.model.session, None, None)

    def _apply(self, packed: Any, count: int) -> npt.NDArray[np.float32] | None:
        """Features of `count` events, which then have counted; None where the state is away."""
        started_s = perf_counter()
        try:
            features, statuses = self.store.apply(packed)
        except Unavailable:
            self._without_state.inc(count)
            return None
        self._feature_seconds.observe(perf_counter() - started_s)
        self._count(statuses)
        return features

    def _score(self, taken: Taken) -> Scored:
        session, features = taken.session, taken.features
        if features is None and self.store.remote:
            features = self._apply(taken.packed, len(taken.events))
        if features is None or session is None:
            return Scored(features, None)
        started_s = perf_counter()
        risks = session.run(features)
        self._model_seconds.observe(perf_counter() - started_s)
        return Scored(features, risks)

    def _answer(self, batch: Sequence[Submission], taken: Taken, scored: Scored) -> list[list[Decision]]:
        decided = self._decide(taken, scored)
        if self._recorder and decided.decisions:
            records = self.records(decided, map(_encode, taken.events))
            self._recorder.put([event.event_id for event in taken.events], records)
        return self._split(batch, decided)

    def _decide(self, taken: Taken, scored: Scored) -> Decided:
        events, session = taken.events, taken.session
        features, risks = scored
        if session is None or features is None or risks is None:
            tier, session, decisions = RULES, None, self._rules.decide(events)
        else:
            self.model.observe(session, risks)
            tier, decisions = FULL, self._decider.decide(events, risks.tolist(), features, session.tag)
        metrics.decided(self.domain.name, tier, [decision.action for decision in decisions])
        return Decided(decisions, features, session)

    def _split(self, batch: Sequence[Submission], decided: Decided) -> list[list[Decision]]:
        decisions, features = decided.decisions, decided.features
        answers, start = [], 0
        for part, with_features in batch:
            end = start + len(part)
            if with_features and features is not None:
                for decision, row in zip(decisions[start:end], features[start:end].tolist(), strict=True):
                    decision.features = dict(zip(self.domain.feature_names, row, strict=True))
            answers.append(decisions[start:end])
            start = end
        return answers

    def _check_future(self, events: Sequence[Any], now_ms: int, first: int = 0) -> None:
        latest_ms = now_ms + self._max_future_ms
        if len(events) > LIVE_ROWS:
            stamps = list(map(_TS, events))
            if set(map(type, stamps)) == {int} and max(stamps) <= latest_ms:
                return
        several = first or len(events) > 1
        for i, event in enumerate(events, first):
            ts = event.ts
            if (ts if ts.__class__ is int else ts_ms(ts)) > latest_ms:
                came = ts if isinstance(ts, int) else ts.isoformat()
                wanted = f"a time at most {self._max_future_ms // 1000} s ahead of the clock"
                raise InvalidEvent("ts", came, wanted, f"[{i}]" if several else "")

    def _locate(self, events: Sequence[Any]) -> InvalidEvent | None:
        """The failure of the first bad event of several, with its place in front."""
        for i, event in enumerate(events):
            at = f"[{i}]" if len(events) > 1 else ""
            try:
                self.schema.row(event, at)
            except InvalidEvent as failure:
                return failure
        return None

    def _count(self, statuses: npt.NDArray[np.uint8]) -> None:
        for status, count in enumerate(np.bincount(statuses).tolist()):
            if count:
                self._statuses[status].inc(count)


def limits_of(settings: Settings) -> Limits:
    """The bounds of a domain's batchers."""
    return Limits(settings.max_batch, settings.max_queue, settings.max_wait_ms / 1000)
