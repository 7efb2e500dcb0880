"""`/v2/repository`: which models there are, and which of them shall answer."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec

from vigil.domains.schema import UNREADABLE
from vigil.errors import InvalidInput
from vigil.transports import oip
from vigil.transports.http.message import Request, Response, json
from vigil.transports.worker import Worker


class IndexRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of an index request."""

    ready: bool | None = None


class ModelRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of a load or unload request."""

    parameters: dict[str, Any] | None = None


Body = TypeVar("Body", IndexRequest, ModelRequest)


class RepositoryRoutes:
    """Handlers of `/v2/repository/...`.

    Args:
        worker: whose engines answer.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def index(self, request: Request) -> Response:
        """The versions in the store, with their state; with `{"ready": true}` only what answers."""
        asked = _decoded(request, IndexRequest)
        return json(await asyncio.to_thread(oip.index, list(self._worker.engines.values()), bool(asked.ready)))

    async def load(self, request: Request) -> Response:
        """Takes the store's present model, while requests go on."""
        oip.check_load(_decoded(request, ModelRequest).parameters or {})
        session = await self._worker.load(request.path["model"])
        return json({"name": request.path["model"], "version": session.version, "state": "READY"})

    async def unload(self, request: Request) -> Response:
        """Lets the rules tier answer from now on."""
        _decoded(request, ModelRequest)
        await self._worker.unload(request.path["model"])
        return json({"name": request.path["model"], "state": "UNAVAILABLE"})


def _decoded(request: Request, kind: type[Body]) -> Body:
    """The body; an empty one asks for nothing in particular."""
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except UNREADABLE as failure:
        raise InvalidInput(f"body: {failure}; wanted an object with {', '.join(kind.__struct_fields__)}") from None
