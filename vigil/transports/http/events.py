"""`/v1`: events to decisions, and their true labels back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from vigil.decisions.decision import Decision
from vigil.domains.schema import is_array
from vigil.engine import Engine
from vigil.scoring.caller import Caller, Then, future_of, pieces, run_for
from vigil.transports.engines import Engines
from vigil.transports.http.message import LARGE_BYTES, Request, Response, json

Item = TypeVar("Item")


class EventRoutes:
    """Handlers of `/v1/{domain}/...`.

    Args:
        engines: which answer.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def check_room(self, path: Mapping[str, str]) -> None:
        """Raises Overloaded while the queue is full: before the work of reading and decoding what would be refused."""
        self._engines.get(path["domain"]).check_room()

    def score(self, request: Request, caller: Caller[Response]) -> None:
        """One event -> one decision; an array -> an array in the same order. `?features=true` adds the features.

        With `X-Request-Timeout-Ms` what cannot begin in time is answered 504, and has not counted.
        """
        engine = self._engines.get(request.path["domain"])
        with_features, deadline_s = request.flag("features"), request.deadline_s()
        if len(request.body) > LARGE_BYTES and is_array(request.body):
            run_for(caller, self._score_slowly(engine, request, with_features, deadline_s))
            return
        events, array = engine.schema.decode(request.body)
        if len(events) > 1:
            self._engines.gate.charge(request.identity, len(events) - 1)
        engine.submit(events, Then(caller, json if array else _only), with_features, deadline_s)

    async def _score_slowly(
        self, engine: Engine, request: Request, with_features: bool, deadline_s: float | None
    ) -> Response:
        events = await _gathered(engine.schema.decode_slowly(request.body))
        self._engines.gate.charge(request.identity, len(events) - 1)
        begin = partial(engine.submit, events, with_features=with_features, deadline_s=deadline_s)
        return await _json_of(await future_of(begin))

    async def feedback(self, request: Request) -> Response:
        """One label or an array of them -> what became of each."""
        engine = self._engines.get(request.path["domain"])
        if len(request.body) > LARGE_BYTES and is_array(request.body):
            labels, array = await _gathered(engine.schema.decode_feedback_slowly(request.body)), True
        else:
            labels, array = engine.schema.decode_feedback(request.body)
        self._engines.gate.charge(request.identity, len(labels) - 1)
        statuses = await engine.learn(labels)
        answers = [{"event_id": label.event_id, "status": s} for label, s in zip(labels, statuses, strict=True)]
        return await _json_of(answers) if array else json(answers[0])


async def _gathered(parts: Iterator[list[Item]]) -> list[Item]:
    """All parts as one list; the loop goes on between them."""
    items = list[Item]()
    for part in parts:
        items += part
        await asyncio.sleep(0)
    return items


async def _json_of(values: Sequence[Any]) -> Response:
    """`json` of an array; the loop goes on between its pieces."""
    texts = []
    for part in pieces(len(values)):
        texts.append(json(values[part]).body[1:-1])
        if part.stop < len(values):
            await asyncio.sleep(0)
    return Response(b"[" + b",".join(texts) + b"]")


def _only(decisions: list[Decision]) -> Response:
    return json(decisions[0])
