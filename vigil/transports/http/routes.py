"""Which handler answers a path of the lane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import bentoml

from vigil.access.identity import ANY, PUBLIC
from vigil.errors import NotFound, cut
from vigil.scoring.caller import Caller
from vigil.transports.engines import Engines
from vigil.transports.http.events import EventRoutes
from vigil.transports.http.inference import InferenceRoutes
from vigil.transports.http.message import Request, Response
from vigil.transports.http.records import RecordRoutes
from vigil.transports.http.repository import RepositoryRoutes

# BentoML's own paths, and the scope each needs. All others are answered by the lane: BentoML would count each by name.
PASSED_ON = {
    "/": ANY,
    "/docs.json": ANY,
    "/schema.json": ANY,
    "/healthz": PUBLIC,
    "/livez": PUBLIC,
    "/metrics": "metrics",
    "/predict": "infer",
}
STATIC = "/static_content/"

Check = Callable[[Mapping[str, str]], None]
Handler = Callable[[Request], Awaitable[Response]]
Begin = Callable[[Request, Caller[Response]], None]


class Route(NamedTuple):
    """A path with `{parameters}`, the one method it takes, the scope that callers need, and who answers.

    `check` is asked before the body is read; what it raises is the answer. A hot route can `begin` an answer,
    or raise, without a task of its own.
    """

    template: str
    method: str
    scope: str
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
        engines: which answer.
    """

    def __init__(self, engines: Engines) -> None:
        events, inference, repository = EventRoutes(engines), InferenceRoutes(engines), RepositoryRoutes(engines)
        records = RecordRoutes(engines)
        model = "/v2/models/{model}"
        versioned = model + "/versions/{version}"
        self.table = (
            Route("/v1/decisions/{event_id}", "GET", "read", records.decision),
            _hot("/v1/{domain}/score", "score", events.score, events.check_room),
            Route("/v1/{domain}/feedback", "POST", "feedback", events.feedback),
            Route("/v2", "GET", "infer", inference.server),
            Route("/v2/health/live", "GET", PUBLIC, inference.live),
            Route("/v2/health/ready", "GET", PUBLIC, inference.ready),
            Route("/v2/models/stats", "GET", "metrics", inference.all_statistics),
            *(_hot(at + "/infer", "infer", inference.infer, inference.check_room) for at in (model, versioned)),
            *(
                Route(at + end, "GET", scope, handler)
                for at in (model, versioned)
                for end, scope, handler in (
                    ("", "infer", inference.metadata),
                    ("/ready", "infer", inference.model_ready),
                    ("/config", "infer", inference.config),
                    ("/stats", "metrics", inference.statistics),
                )
            ),
            Route("/v2/repository/index", "POST", "admin", repository.index),
            Route("/v2/repository/models/{model}/load", "POST", "admin", repository.load),
            Route("/v2/repository/models/{model}/unload", "POST", "admin", repository.unload),
            Route("/readyz", "GET", PUBLIC, inference.ready),
        )
        # Paths without surprises are looked up once; a caller cannot make this grow.
        self._known = {
            path: self._match(path)
            for domain in engines.domains
            for route in self.table
            for path in [route.template.replace("{domain}", domain.name).replace("{model}", domain.name)]
            if "{" not in path
        }

    def hot_routes(self) -> dict[bytes, Match]:
        """By path, the hot routes that have no version in it."""
        return {path.encode(): match for path, match in self._known.items() if match.route.begin}

    def passed_on(self, path: str) -> str | None:
        """The scope that a path of BentoML's own needs; None where the lane answers for it, be it with an error."""
        if path.startswith(STATIC) and path[len(STATIC) :] in _static_files():
            return PUBLIC
        return PASSED_ON.get(path)

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
        raise NotFound(f"no route {cut(path)}; there are {known}")


@cache
def _static_files() -> frozenset[str]:
    """What BentoML's page of the API is made of."""
    folder = Path(bentoml.__file__).parent / "_internal/server/static_content"
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _hot(template: str, scope: str, begin: Begin, check: Check) -> Route:
    async def handler(request: Request) -> Response:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        begin(request, future)
        return await future

    return Route(template, "POST", scope, handler, check, begin)
