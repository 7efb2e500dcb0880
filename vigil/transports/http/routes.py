"""Which handler answers a path of the lane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from vigil.errors import NotFound
from vigil.scoring.caller import Caller
from vigil.transports.http.events import EventRoutes
from vigil.transports.http.inference import InferenceRoutes
from vigil.transports.http.message import Request, Response
from vigil.transports.http.records import RecordRoutes
from vigil.transports.http.repository import RepositoryRoutes
from vigil.transports.worker import Worker

Check = Callable[[Mapping[str, str]], None]
Handler = Callable[[Request], Awaitable[Response]]
Begin = Callable[[Request, Caller[Response]], None]


class Route(NamedTuple):
    """A path with `{parameters}`, the one method it takes and who answers.

    `check` is asked before the body is read; what it raises is the answer. A hot route can `begin` an answer,
    or raise, without a task of its own.
    """

    template: str
    method: str
    handler: Handler
    check: Check | None = None
    begin: Begin | None = None


class Match(NamedTuple):
    """A route and the parameters found in a path."""

    route: Route
    parameters: dict[str, str]


class Routes:
    """The table of the lane's routes.

    Args:
        worker: whose engines answer.
    """

    def __init__(self, worker: Worker) -> None:
        events, inference, repository = EventRoutes(worker), InferenceRoutes(worker), RepositoryRoutes(worker)
        records = RecordRoutes(worker)
        model = "/v2/models/{model}"
        versioned = model + "/versions/{version}"
        self.table = (
            Route("/v1/decisions/{event_id}", "GET", records.decision),
            _hot("/v1/{domain}/score", events.score, events.check_room),
            Route("/v1/{domain}/feedback", "POST", events.feedback),
            Route("/v2", "GET", inference.server),
            Route("/v2/health/live", "GET", inference.live),
            Route("/v2/health/ready", "GET", inference.ready),
            Route("/v2/models/stats", "GET", inference.all_statistics),
            *(_hot(at + "/infer", inference.infer, inference.check_room) for at in (model, versioned)),
            *(
                Route(at + end, "GET", handler)
                for at in (model, versioned)
                for end, handler in (
                    ("", inference.metadata),
                    ("/ready", inference.model_ready),
                    ("/config", inference.config),
                    ("/stats", inference.statistics),
                )
            ),
            Route("/v2/repository/index", "POST", repository.index),
            Route("/v2/repository/models/{model}/load", "POST", repository.load),
            Route("/v2/repository/models/{model}/unload", "POST", repository.unload),
            Route("/readyz", "GET", inference.ready),
        )
        # Paths without surprises are looked up once; a caller cannot make this grow.
        self._known = {
            path: self._match(path)
            for domain in worker.domains
            for route in self.table
            for path in [route.template.replace("{domain}", domain.name).replace("{model}", domain.name)]
            if "{" not in path
        }

    def hot(self) -> dict[bytes, Match]:
        """By path, the hot routes that have no version in it."""
        return {path.encode(): match for path, match in self._known.items() if match.route.begin}

    def owns(self, path: str) -> bool:
        """Whether the lane answers for `path`, be it with an error."""
        return path in self._known or path == "/v2" or path.startswith(("/v1/", "/v2/"))

    def find(self, path: str, raw_path: bytes) -> Match:
        """The route of a path.

        Args:
            path: decoded.
            raw_path: as it came, which tells a slash between parts from `%2F` in one.

        Raises:
            NotFound: listing the routes there are.
        """
        return self._known.get(path) or self._match(raw_path.decode("latin-1"))

    def _match(self, path: str) -> Match:
        parts = [unquote(part) for part in path.split("/")]
        for route in self.table:
            pattern = route.template.split("/")
            if len(pattern) == len(parts):
                pairs = list(zip(pattern, parts, strict=True))
                if all(got if wanted[:1] == "{" else got == wanted for wanted, got in pairs):
                    return Match(route, {wanted[1:-1]: got for wanted, got in pairs if wanted[:1] == "{"})
        known = ", ".join(f"{route.method} {route.template}" for route in self.table)
        raise NotFound(f"no route {path}; there are {known}")


def _hot(template: str, begin: Begin, check: Check) -> Route:
    async def handler(request: Request) -> Response:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        begin(request, future)
        return await future

    return Route(template, "POST", handler, check, begin)
