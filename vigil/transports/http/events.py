"""`/v1`: events to decisions, and their true labels back."""

from __future__ import annotations

from vigil.transports.http.message import Request, Response, json
from vigil.transports.worker import Worker


class EventRoutes:
    """Handlers of `/v1/{domain}/...`.

    Args:
        worker: whose engines answer.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def score(self, request: Request) -> Response:
        """One event -> one decision; an array -> an array in the same order. `?features=true` adds the features."""
        engine = self._worker.engine(request.path["domain"])
        with_features = request.flag("features")
        events, array = engine.schema.decode(request.body)
        decisions = await engine.submit(events, with_features)
        return json(decisions if array else decisions[0])

    async def feedback(self, request: Request) -> Response:
        """One label or an array of them -> what became of each."""
        engine = self._worker.engine(request.path["domain"])
        labels, array = engine.schema.decode_feedback(request.body)
        statuses = engine.feedback(labels)
        answers = [{"event_id": label.event_id, "status": s} for label, s in zip(labels, statuses, strict=True)]
        return json(answers if array else answers[0])
