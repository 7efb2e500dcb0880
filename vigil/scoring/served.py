"""The model of a domain as it is served: it answers feature rows, and is loaded, swapped and unloaded meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from vigil.domains.spec import Domain
from vigil.errors import ModelRefused, NotFound, Unavailable
from vigil.observe import metrics
from vigil.scoring import query
from vigil.scoring.batcher import Batcher, Limits
from vigil.scoring.caller import PIECE_ROWS, Caller, one_by_one, run_for
from vigil.scoring.query import Query
from vigil.scoring.queue import Priority
from vigil.scoring.session import Rows, Session
from vigil.scoring.statistics import Statistics

logger = logging.getLogger(__name__)
MOST_ROWS = 8 * PIECE_ROWS  # of a call at once: rows cost less than events


class ServedModel:
    """A domain's model, or why there is none.

    Args:
        domain: whose model.
        alias: of the store's version that `load` takes.
        limits: of queue and batch.
        clock_ms: gives the time, epoch milliseconds UTC.
        session: the model, or None.
        problem: why there is no model, for people; "" with one.
        trust: as `model_store.verify` takes it.

    `statistics` holds what each version has done, by version.
    """

    def __init__(
        self,
        domain: Domain,
        alias: str,
        limits: Limits,
        clock_ms: Callable[[], int],
        session: Session | None = None,
        problem: str = "",
        trust: Path | None = None,
    ) -> None:
        self.domain, self._trust = domain, trust
        self.session: Session | None = None
        self.problem = problem
        self.statistics: dict[str, Statistics] = {}
        self._alias, self._max_batch, self._clock_ms = alias, limits.max_batch, clock_ms
        self._observers: dict[str, Callable[[Rows], None]] = {}
        self._loading = asyncio.Lock()
        self._rows: Batcher[Query, query.Joined, query.Ran, Rows] = Batcher(
            query.join,
            query.run,
            query.part,
            limits,
            metrics.BatchMetrics(domain.name, "rows"),
            session.row_s if session else 0.0,
        )
        self._swap(session, problem)

    @classmethod
    def open(
        cls, domain: Domain, alias: str, limits: Limits, clock_ms: Callable[[], int], trust: Path | None = None
    ) -> ServedModel:
        """The model that the alias means now. A missing or refused one is no failure: `problem` says why.

        Raises:
            ConfigError: where `trust` cannot be read.
        """
        session, problem = None, ""
        try:
            session = Session.load(domain, alias, limits.max_batch, trust)
        except (NotFound, ModelRefused) as failure:
            problem = str(failure)
            logger.error("no model for %s, the rules tier answers: %s", domain.name, problem)
        return cls(domain, alias, limits, clock_ms, session, problem, trust)

    def close(self) -> None:
        """Ends the model's thread."""
        self._rows.close()

    def current(self) -> Session:
        """The loaded model.

        Raises:
            Unavailable: where there is none, with the reason.
        """
        if self.session is None:
            raise Unavailable(self.problem)
        return self.session

    def check_room(self) -> None:
        """Raises Overloaded where not even one row more would be taken: cheap, before anything is decoded."""
        self._rows.check()

    def submit(
        self, rows: Rows, caller: Caller[Rows], session: Session | None = None, deadline_s: float | None = None
    ) -> None:
        """Risks float32 [n] of feature rows float32 [n, F], computed together with those of other callers.

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
        session, count = session or self.current(), len(rows)
        if count <= MOST_ROWS:
            asked = Query(session, self.statistics[session.version], rows, perf_counter_ns())
            self._rows.enqueue(asked, caller, count, Priority.of(count), deadline_s)
            return
        self._rows.check(MOST_ROWS)  # no more of them ever wait at once
        run_for(caller, self._in_pieces(rows, caller, session, deadline_s))

    async def _in_pieces(self, rows: Rows, caller: Caller[Rows], session: Session, deadline_s: float | None) -> Rows:
        def begin(part: slice, each: Caller[Rows]) -> None:
            self.submit(rows[part], each, session, None if part.start else deadline_s)

        parts = [slice(start, start + MOST_ROWS) for start in range(0, len(rows), MOST_ROWS)]
        found = await one_by_one(parts, begin, caller)
        return np.concatenate(found) if found else np.empty(0, np.float32)

    def observe(self, session: Session, risks: Rows) -> None:
        """Counts the risks that a model gave, by the edges of its manifest."""
        if observer := self._observers.get(session.version):
            observer(risks)

    async def load(self) -> Session:
        """Takes the model the alias means now: verified and warmed aside while the present one answers, then swapped.

        Raises:
            NotFound, ModelRefused: as `Session.load`; the present model, where there is one, goes on.
        """
        async with self._loading:
            try:
                session = await asyncio.to_thread(Session.load, self.domain, self._alias, self._max_batch, self._trust)
            except (NotFound, ModelRefused) as failure:
                if self.session is None:
                    self.problem = str(failure)
                logger.error("no other model for %s: %s", self.domain.name, failure)
                raise
            self._swap(session, "")
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
            logger.info("model %s answers for %s", session.tag, name)

    def _describe(self, session: Session) -> None:
        known, version = session.manifest, session.version
        if known:
            metrics.MODEL_CREATED.labels(self.domain.name, version).set(known.created_s)
            if known.risk_shares and version not in self._observers:
                observer = metrics.risks_seen(self.domain.name, version, known.risk_edges, known.risk_shares)
                self._observers[version] = observer
