"""`/v1`: events to decisions, and their true labels back."""

from __future__ import annotations

from collections.abc import Mapping

from vigil.decisions.decision import Decision
from vigil.scoring.caller import Caller, Then
from vigil.transports.http.message import Request, Response, json
from vigil.transports.worker import Worker


class EventRoutes:
    """Handlers of `/v1/{domain}/...`.

    Args:
        worker: whose engines answer.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def check_room(self, path: Mapping[str, str]) -> None:
        """Raises Overloaded while the queue is full: before the work of reading and decoding what would be refused."""
        self._worker.engine(path["domain"]).check_room()

    def score(self, request: Request, caller: Caller[Response]) -> None:
        """One event -> one decision; an array -> an array in the same order. `?features=true` adds the features.

        With `X-Request-Timeout-Ms` what cannot begin in time is answered 504, and has not counted.
        """
        engine = self._worker.engine(request.path["domain"])
        with_features, deadline_s = request.flag("features"), request.deadline_s()
        events, array = engine.schema.decode(request.body)
        engine.put(events, Then(caller, json if array else _only), with_features, deadline_s)

    async def feedback(self, request: Request) -> Response:
        """One label or an array of them -> what became of each."""
        engine = self._worker.engine(request.path["domain"])
        labels, array = engine.schema.decode_feedback(request.body)
        statuses = await engine.learn(labels)
        answers = [{"event_id": label.event_id, "status": s} for label, s in zip(labels, statuses, strict=True)]
        return json(answers if array else answers[0])


def _only(decisions: list[Decision]) -> Response:
    return json(decisions[0])
