"""One domain's engine: event -> features -> score -> decision. The only place where these meet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from time import perf_counter, perf_counter_ns
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from vigil import metrics
from vigil.decisions import record
from vigil.decisions.decision import Decision
from vigil.decisions.policy import FULL, Decider
from vigil.decisions.recorder import Recorder
from vigil.decisions.rules import RULES, RulesTier
from vigil.domains.schema import Feedback, Schema, ts_ms
from vigil.domains.spec import Domain
from vigil.errors import InvalidEvent, ModelRefused, NotFound, Unavailable
from vigil.features import kernel
from vigil.features.state import open_state
from vigil.features.store import MemoryStore
from vigil.scoring import query
from vigil.scoring.batcher import Batcher, Limits
from vigil.scoring.caller import Caller
from vigil.scoring.query import Query
from vigil.scoring.queue import Priority
from vigil.scoring.session import Rows, Session, stored_versions
from vigil.scoring.statistics import Statistics
from vigil.settings import Settings

logger = logging.getLogger(__name__)

STATUS_NAMES = ("new", "late", "too_late", "repeat", "recomputed", "labelled", "label_known", "label_waits")
LIVE_ROWS = 16  # a call with more rows is bulk, and lets the smaller ones pass
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
    """Decisions on a batch, and what they were made from: features float32 [n, F], and the model (None: the rules)."""

    decisions: list[Decision]
    features: npt.NDArray[np.float32]
    session: Session | None


class Store(Protocol):
    """Feature state of a domain, wherever it lies.

    The verbs of a `remote` one wait for a server, may raise Unavailable, and may be called in any thread.
    """

    remote: bool

    @property
    def problem(self) -> str: ...

    def watch(self, changed: Callable[[], object]) -> None: ...

    def pack(self, events: Sequence[Any]) -> Any: ...

    def run(self, packed: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]: ...

    def feedback(self, labels: Sequence[Feedback]) -> npt.NDArray[np.uint8]: ...


class Engine:
    """Scores events of one domain; without a model the rules tier answers.

    Args:
        domain: whose events.
        settings: limits of queue, batch and time.
        store: the feature state.
        session: the model, or None.
        problem: why there is no model, for those who ask; "" with one.
        clock_ms: gives the time, epoch milliseconds UTC.
        close: brings the store to disk and gives it free.
        recorder: gets a record of each decision that is submitted, if any.
    """

    def __init__(
        self,
        domain: Domain,
        settings: Settings,
        store: Store,
        session: Session | None,
        problem: str,
        clock_ms: Callable[[], int],
        close: Callable[[], None],
        recorder: Recorder | None = None,
    ) -> None:
        self.domain, self.schema = domain, Schema(domain)
        self.store, self.session, self.problem = store, session, problem
        self.statistics: dict[str, Statistics] = {}
        self._risks_seen: dict[str, Callable[[Rows], None]] = {}
        self._settings, self._loading = settings, asyncio.Lock()
        self._decider, self._rules = Decider(domain), RulesTier(domain)
        self._max_future_ms = settings.max_future_s * 1000
        self._clock_ms = clock_ms
        self._close, self._recorder = close, recorder
        limits = Limits(settings.max_batch, settings.max_queue, settings.max_wait_ms / 1000)
        warm_s = session.row_s if session else 0.0
        self._events: Batcher[Submission, Taken, Scored, list[Decision]] = Batcher(
            lambda batch: self._take(batch, self._clock_ms()),
            self._score,
            self._answer,
            limits,
            metrics.BatchMetrics(domain.name, "events"),
            warm_s,
            waits=store.remote,
        )
        self._rows: Batcher[Query, query.Joined, query.Ran, Rows] = Batcher(
            query.join,
            query.run,
            query.part,
            limits,
            metrics.BatchMetrics(domain.name, "rows"),
            warm_s,
        )
        self._feature_seconds = metrics.STAGE_SECONDS.labels(domain.name, "features")
        self._model_seconds = metrics.STAGE_SECONDS.labels(domain.name, "model")
        self._without_state = metrics.EVENTS.labels(domain.name, "state_away")
        self._statuses = [
            (metrics.EVENTS if i <= kernel.RECOMPUTED else metrics.LABELS).labels(domain.name, name)
            for i, name in enumerate(STATUS_NAMES)
        ]
        self._swap(session, problem)

    @classmethod
    def open(
        cls, domain: Domain, settings: Settings, clock_ms: Callable[[], int], recorder: Recorder | None = None
    ) -> Engine:
        """An engine over the stored state and the stored model.

        A missing or refused model is no failure: the engine answers from the rules tier and says why.

        Raises:
            StateError: where the state cannot be used.
        """
        session, problem = None, ""
        try:
            session = Session.load(domain, settings.model_alias, settings.max_batch)
        except (NotFound, ModelRefused) as failure:
            problem = str(failure)
            logger.error("no model for %s, the rules tier answers: %s", domain.name, problem)
        # Loads the compiled kernel, which otherwise the first caller would wait for.
        warm = MemoryStore(domain)
        warm.apply([warm.schema.make(domain.example)])
        state = open_state(domain, settings)
        engine = cls(domain, settings, state.store, session, problem, clock_ms, state.close, recorder)
        if session:
            logger.info("model %s answers for %s", session.tag, domain.name)
        return engine

    def close(self) -> None:
        """Ends the model's threads, brings the store to disk and gives it free."""
        self._events.close()
        self._rows.close()
        self._close()

    def check_room(self) -> None:
        """Raises Overloaded where not even one event more would be taken: cheap, before anything is decoded."""
        self._events.check()

    def check_room_for_rows(self) -> None:
        """The same of feature rows."""
        self._rows.check()

    def submit(
        self, events: Sequence[Any], with_features: bool = False, deadline_s: float | None = None
    ) -> asyncio.Future[list[Decision]]:
        """As :meth:`put`, for who can await the decisions."""
        future: asyncio.Future[list[Decision]] = asyncio.get_running_loop().create_future()
        self.put(events, future, with_features, deadline_s)
        return future

    def put(
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
        self._events.put((events, with_features), caller, count, _priority(count), deadline_s)

    def infer(
        self, rows: Rows, session: Session | None = None, deadline_s: float | None = None
    ) -> asyncio.Future[Rows]:
        """As :meth:`put_rows`, for who can await the risks."""
        future: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self.put_rows(rows, future, session, deadline_s)
        return future

    def put_rows(
        self, rows: Rows, caller: Caller[Rows], session: Session | None = None, deadline_s: float | None = None
    ) -> None:
        """Risks float32 [n] of feature rows float32 [n, F], together with those of other callers.

        Args:
            rows: the feature rows.
            caller: gets the risks.
            session: the model that answers, be it swapped meanwhile; None: the loaded one.
            deadline_s: when the caller gives up, of `time.perf_counter`; None: never.

        Raises:
            Unavailable: without a model.
            Overloaded: where the queue is full.
            DeadlineExceeded: also to the caller, where it is too late to begin.
            InvalidInput: to the caller, for a wrong shape or a value that is not finite.
        """
        session = session or self.model()
        asked = Query(session, self.statistics[session.version], rows, perf_counter_ns())
        count = len(rows)
        self._rows.put(asked, caller, count, _priority(count), deadline_s)

    def score(self, events: Sequence[Any], now_ms: int, with_features: bool = False) -> list[Decision]:
        """As :meth:`submit`, at once: one call of the kernel, one of the model."""
        batch = [(events, with_features)]
        taken = self._take(batch, now_ms)
        scored = self._score(taken)
        return self._split(batch, self._decide(taken, scored), scored.features)[0]

    def decide(self, events: Sequence[Any], now_ms: int) -> Decided:
        """As :meth:`score`, with all that a record of the decisions holds.

        Raises:
            Unavailable: where the feature state is away: who can read its events again shall wait for it.
        """
        taken = self._take([(events, False)], now_ms)
        scored = self._score(taken)
        if scored.features is None:
            raise Unavailable(f"feature state: {self.state_problem or 'it did not answer in time'}")
        return Decided(self._decide(taken, scored), scored.features, taken.session)

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
        return self._told(self.store.feedback(labels))

    async def learn(self, labels: Sequence[Feedback]) -> list[str]:
        """As :meth:`feedback`; the loop goes on meanwhile where the state has to be waited for."""
        if self.store.remote:
            return self._told(await asyncio.to_thread(self.store.feedback, labels))
        return self.feedback(labels)

    def _told(self, statuses: npt.NDArray[np.uint8]) -> list[str]:
        self._count(statuses)
        return [STATUS_NAMES[status] for status in statuses.tolist()]

    @property
    def state_problem(self) -> str:
        """Why features cannot be computed now; "" where they can."""
        return self.store.problem

    def watch_state(self, changed: Callable[[], object]) -> None:
        """Has `changed` called, in any thread, when `state_problem` has changed."""
        self.store.watch(changed)

    def model(self) -> Session:
        """The loaded model.

        Raises:
            Unavailable: where there is none, with the reason.
        """
        if self.session is None:
            raise Unavailable(self.problem)
        return self.session

    def stored_versions(self) -> list[str]:
        """Versions of the domain's model in the store; none where there is none."""
        return stored_versions(self.domain)

    async def load(self) -> Session:
        """Takes the model the alias means now: verified and warmed aside while the present one answers, then swapped.

        Raises:
            NotFound, ModelRefused: as :meth:`Session.load`; the present model, where there is one, goes on.
        """
        alias, max_batch = self._settings.model_alias, self._settings.max_batch
        async with self._loading:
            try:
                session = await asyncio.to_thread(Session.load, self.domain, alias, max_batch)
            except (NotFound, ModelRefused) as failure:
                if self.session is None:
                    self.problem = str(failure)
                logger.error("no other model for %s: %s", self.domain.name, failure)
                raise
            self._swap(session, "")
        logger.info("model %s answers for %s", session.tag, self.domain.name)
        return session

    async def unload(self) -> None:
        """Lets the rules tier answer from now on; what waits for the model is still answered by it."""
        async with self._loading:
            name = self.domain.name
            self._swap(None, f"model {name!r} was unloaded; POST /v2/repository/models/{name}/load takes it again")
        logger.warning("model of %s unloaded, the rules tier answers", self.domain.name)

    def _swap(self, session: Session | None, problem: str) -> None:
        name, before = self.domain.name, self.session
        self.session, self.problem = session, problem
        if before:
            metrics.MODEL_INFO.labels(name, before.version, before.digest).set(0)
        if session:
            self.statistics.setdefault(session.version, Statistics(self._clock_ms))
            metrics.MODEL_INFO.labels(name, session.version, session.digest).set(1)
            self._describe(session)

    def _describe(self, session: Session) -> None:
        known, version = session.manifest, session.version
        if known:
            metrics.MODEL_CREATED.labels(self.domain.name, version).set(known.created_s)
            if known.risk_shares and version not in self._risks_seen:
                seen = metrics.risks_seen(self.domain.name, version, known.risk_edges, known.risk_shares)
                self._risks_seen[version] = seen

    def _take(self, batch: Sequence[Submission], now_ms: int) -> Taken:
        events = [event for part, _ in batch for event in part]
        try:
            self._check_future(events, now_ms)
            packed = self.store.pack(events)
            if self.store.remote:  # its features come where waiting is allowed
                return Taken(events, self.session, packed, None)
            return Taken(events, self.session, packed, self._apply(packed))
        except InvalidEvent as failure:
            raise self._located(events) or failure from None

    def _apply(self, packed: Any) -> npt.NDArray[np.float32]:
        started_s = perf_counter()
        features, statuses = self.store.run(packed)
        self._feature_seconds.observe(perf_counter() - started_s)
        self._count(statuses)
        return features

    def _score(self, taken: Taken) -> Scored:
        session, features = taken.session, taken.features
        if features is None:
            try:
                features = self._apply(taken.packed)
            except Unavailable:
                self._without_state.inc(len(taken.events))
                return Scored(None, None)
        if session is None:
            return Scored(features, None)
        started_s = perf_counter()
        risks = session.run(features)
        self._model_seconds.observe(perf_counter() - started_s)
        return Scored(features, risks)

    def _answer(self, batch: Sequence[Submission], taken: Taken, scored: Scored) -> list[list[Decision]]:
        decisions = self._decide(taken, scored)
        if self._recorder and decisions:
            session = taken.session if decisions[0].tier == FULL else None
            events = map(_encode, taken.events)
            records = record.encoded(self.domain, session.digest if session else "", decisions, events, scored.features)
            self._recorder.put([event.event_id for event in taken.events], records)
        return self._split(batch, decisions, scored.features)

    def _decide(self, taken: Taken, scored: Scored) -> list[Decision]:
        events, session = taken.events, taken.session
        features, risks = scored
        if session is None or features is None or risks is None:
            tier, decisions = RULES, self._rules.decide(events)
        else:
            if seen := self._risks_seen.get(session.version):
                seen(risks)
            tier, decisions = FULL, self._decider.decide(events, risks.tolist(), features, session.tag)
        metrics.decided(self.domain.name, tier, [decision.action for decision in decisions])
        return decisions

    def _split(
        self, batch: Sequence[Submission], decisions: list[Decision], features: npt.NDArray[np.float32] | None
    ) -> list[list[Decision]]:
        answers, start = [], 0
        for part, with_features in batch:
            end = start + len(part)
            if with_features and features is not None:
                for decision, row in zip(decisions[start:end], features[start:end].tolist(), strict=True):
                    decision.features = dict(zip(self.domain.feature_names, row, strict=True))
            answers.append(decisions[start:end])
            start = end
        return answers

    def _check_future(self, events: Sequence[Any], now_ms: int) -> None:
        latest_ms = now_ms + self._max_future_ms
        if len(events) > LIVE_ROWS:
            stamps = list(map(_TS, events))
            if set(map(type, stamps)) == {int} and max(stamps) <= latest_ms:
                return
        for i, event in enumerate(events):
            ts = event.ts
            if (ts if ts.__class__ is int else ts_ms(ts)) > latest_ms:
                came = ts if isinstance(ts, int) else ts.isoformat()
                wanted = f"a time at most {self._max_future_ms // 1000} s ahead of the clock"
                raise InvalidEvent("ts", came, wanted, f"[{i}]" if len(events) > 1 else "")

    def _located(self, events: Sequence[Any]) -> InvalidEvent | None:
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


def _priority(rows: int) -> Priority:
    return Priority.LIVE if rows <= LIVE_ROWS else Priority.BULK
