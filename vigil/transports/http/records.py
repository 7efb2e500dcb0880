"""`/v1/decisions`: what was decided, when, and on what."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from vigil.decisions.record import Record, features_of, spec_of
from vigil.decisions.recorder import GATHER_S
from vigil.decisions.segment import Found
from vigil.errors import NotFound, cut, quote
from vigil.transports.engines import Engines
from vigil.transports.http.message import Request, Response, json


class RecordRoutes:
    """Handlers of `/v1/decisions/...`.

    Args:
        engines: whose recorder's archive is read: it holds what all workers of the machine have written.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def decision(self, request: Request) -> Response:
        """The record of an event's decision, the last one where there are several; `?domain=` names whose event.

        Raises:
            NotFound: where there is none.
        """
        event_id, domain = request.path["event_id"], request.text("domain")
        if request.query:
            self._engines.get(domain)
        recorder, settings = self._engines.recorder, self._engines.settings
        if recorder is None:
            raise NotFound("no decision is recorded: VIGIL_RECORDS is off")
        found = await asyncio.to_thread(recorder.archive.find, event_id, domain)
        if found is None:  # it may have been decided just now, by any worker
            await asyncio.sleep(2 * GATHER_S)
            found = await asyncio.to_thread(recorder.archive.find, event_id, domain)
        if found is None:
            whose = f" of {cut(domain)}" if domain else ""
            raise NotFound(
                f"no decision on record for the event {quote(event_id)}{whose}; on each machine records are kept "
                f"for {settings.records_days:g} days, up to {settings.records_max_bytes:,} bytes"
            )
        return json(self._readable(found))

    def _readable(self, found: Found) -> dict[str, Any]:
        record = msgspec.json.decode(found.record, type=Record)
        values = msgspec.structs.asdict(record) | {"written_ms": found.written_ms}
        if isinstance(record.features, msgspec.UnsetType):  # the feature state was away
            del values["features"]
            return values
        engine = self._engines.by_name.get(record.domain)
        # Of another feature spec, whose names are not known here, they stay as they are.
        if engine and spec_of(engine.domain) == record.spec:
            (row,) = features_of([record.features]).tolist()
            values["features"] = dict(zip(engine.domain.feature_names, row, strict=True))
        return values
