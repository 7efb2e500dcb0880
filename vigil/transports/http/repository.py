"""`/v2/repository`: which models there are, and which of them shall answer."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec

from vigil.domains.schema import UNREADABLE
from vigil.errors import InvalidInput, cut
from vigil.transports import oip
from vigil.transports.engines import Engines
from vigil.transports.http.message import Request, Response, json


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
        engines: which answer.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def index(self, request: Request) -> Response:
        """The versions in the store, with their state; with `{"ready": true}` only what answers."""
        asked = _decode(request, IndexRequest)
        return json(await asyncio.to_thread(oip.index, list(self._engines.by_name.values()), bool(asked.ready)))

    async def load(self, request: Request) -> Response:
        """Takes the store's present model, while requests go on."""
        oip.check_load(_decode(request, ModelRequest).parameters or {})
        session = await self._engines.load(request.path["model"])
        return json({"name": request.path["model"], "version": session.version, "state": "READY"})

    async def unload(self, request: Request) -> Response:
        """Lets the rules tier answer from now on."""
        _decode(request, ModelRequest)
        await self._engines.unload(request.path["model"])
        return json({"name": request.path["model"], "state": "UNAVAILABLE"})


def _decode(request: Request, kind: type[Body]) -> Body:
    """The body; an empty one asks for nothing in particular."""
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except UNREADABLE as failure:
        fields = ", ".join(kind.__struct_fields__)
        raise InvalidInput(f"body: {cut(str(failure), 200)}; wanted an object with {fields}") from None
