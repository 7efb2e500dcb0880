"""`vigil.v1.Decisions`: events to decisions over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from vigil.decisions.decision import Decision
from vigil.domains.schema import Feedback, Schema
from vigil.engine import Engine
from vigil.errors import InvalidInput
from vigil.scoring.caller import PIECE_ROWS, Caller, Then, future_of, pieces, run_for
from vigil.transports.engines import Engines
from vigil.transports.grpc.answers import aborts, admitted, answers, charge, checked, deadline_s
from vigil.transports.grpc.streams import Streams
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc as rpc


class DecisionsService(rpc.DecisionsServicer):  # type: ignore[misc]
    """Scores events.

    Args:
        engines: which answer.
        streams: of the server.
    """

    full_name = pb.DESCRIPTOR.services_by_name["Decisions"].full_name

    def __init__(self, engines: Engines, streams: Streams) -> None:
        self._engines, self._streams, self.gate = engines, streams, engines.gate

    @answers
    async def Score(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Events of one domain to decisions, in order."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.begin(request, deadline_s(context), future)
        return await future

    @aborts
    async def ScoreStream(self, requests: Any, context: Any) -> None:  # noqa: N802
        """As Score, an answer a request, in order; what is wrong with one is said in its answer."""
        until_s = deadline_s(context)

        def begin(request: Any, caller: Caller[Any]) -> None:
            identity = admitted(self.gate, "ScoreStream", context)  # a key may be revoked meanwhile
            charge(self.gate, identity, checked(request))
            self._put(checked(request), until_s, Then(caller, partial(_answer, pb.ScoreStreamResponse)))

        await self._streams.in_order(context, "ScoreStream", begin, _failed)

    def begin(self, request: Any, until_s: float | None, caller: Caller[Any]) -> None:
        """Lets `caller` have the response to a ScoreRequest.

        Args:
            request: as decoded.
            until_s: when the caller gives up, of `time.perf_counter`; None: never.
            caller: gets the ScoreResponse.

        Raises:
            VigilError: what is wrong with the request at the first look.
        """
        self._put(request, until_s, Then(caller, partial(_answer, pb.ScoreResponse)))

    def _put(self, request: Any, until_s: float | None, caller: Caller[list[Decision]]) -> None:
        engine = self._engines.get(request.domain)
        if not request.events:
            raise InvalidInput("events: got none, wanted at least one event")
        if len(request.events) > PIECE_ROWS:
            run_for(caller, self._put_slowly(engine, request, until_s))
            return
        engine.submit(events_of(engine.schema, request.events), caller, request.with_features, until_s)

    async def _put_slowly(self, engine: Engine, request: Any, until_s: float | None) -> list[Decision]:
        events = list[Any]()
        for part in pieces(len(request.events)):
            events += events_of(engine.schema, request.events[part], part.start, several=True)
            await asyncio.sleep(0)
        return await future_of(lambda caller: engine.submit(events, caller, request.with_features, until_s))

    @answers
    async def Feedback(self, request: Any, context: Any) -> Any:  # noqa: N802
        """True labels of earlier events."""
        engine = self._engines.get(request.domain)
        return pb.FeedbackResponse(statuses=await engine.learn(labels_of(engine.schema, request.labels)))


def _answer(response: Callable[..., Any], decisions: list[Decision]) -> Any:
    return response(decisions=[message_of(decision) for decision in decisions])


def _failed(request: Any, code: str, message: str) -> Any:
    return pb.ScoreStreamResponse(error=pb.Error(code=code, message=message))


def labels_of(schema: Schema, messages: Any) -> list[Feedback]:
    """Labels from `vigil.v1.Label` messages, by way of JSON: what is wrong with one is said as over HTTP.

    Raises:
        InvalidEvent: naming the field, and where several came, which label.
    """
    values = [
        {"event_id": message.event_id} | ({"label": message.label} if message.HasField("label") else {})
        for message in messages
    ]
    return schema.decode_feedback(msgspec.json.encode(values[0] if len(values) == 1 else values))[0]


def events_of(schema: Schema, messages: Any, first: int = 0, several: bool | None = None) -> list[Any]:
    """Events of the domain's schema from `vigil.v1.Event` messages; values out of range are the engine's to refuse.

    Args:
        schema: of the domain.
        messages: the events, or some of them.
        first: the place of the first of them.
        several: whether they are some of several; None: where there are.

    Raises:
        InvalidEvent: for a field that is missing, unknown or of a wrong type, and where several came, which event.
    """
    several = len(messages) > 1 if several is None else several
    events = []
    for i, message in enumerate(messages, first):
        values = dict(message.entities.items())
        values.update(message.numbers.items())
        values["event_id"] = message.event_id
        if message.HasField("ts_ms"):
            values["ts"] = message.ts_ms
        try:
            events.append(msgspec.convert(values, schema.struct))
        except msgspec.ValidationError:
            events.append(schema.make(values, f"[{i}]" if several else ""))
    return events


def message_of(decision: Decision) -> Any:
    """A decision as `vigil.v1.Decision`."""
    features = {} if decision.features is msgspec.UNSET else decision.features
    return pb.Decision(
        event_id=str(decision.event_id),
        risk=decision.risk,
        action=decision.action,
        reasons=decision.reasons,
        model=decision.model,
        tier=decision.tier,
        degraded=decision.degraded,
        features=features,
    )
