"""Ways to hand an event to a running service, for feeds and tests: HTTP and gRPC."""

from __future__ import annotations

import os
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import msgspec

from vigil.domains.spec import Domain
from vigil.errors import Unavailable, VigilError
from vigil.settings import is_loopback

# Where gRPC looks for a proxy, in this order.
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


class Refused(VigilError):
    """The service answered with an error; the message is the service's."""


class Sender(Protocol):
    """Sends events and labels of one domain, one at a time, many at once in flight.

    `where` says in an error where to, and by which proxy.
    """

    where: str

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *failure: object) -> None: ...

    async def ready(self) -> bool:
        """Whether the service is up with a loaded model."""

    async def score(self, event: dict[str, Any]) -> dict[str, Any]:
        """The decision on one event, as plain values."""

    async def feedback(self, event_id: str, label: int) -> None:
        """Sends the truth about an earlier event."""


class HttpSender:
    """`POST /v1/{domain}/score` and `/feedback` over kept connections.

    Args:
        domain: whose events are sent.
        address: as `127.0.0.1:3000`.
        key: API key; "" for none.
    """

    def __init__(self, domain: Domain, address: str, key: str = "") -> None:
        self._headers = {"X-API-Key": key} if key else {}
        self._domain, self._address = domain.name, f"http://{address.removeprefix('http://')}"
        self.where = self._address

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(
            self._address, headers=self._headers, timeout=aiohttp.ClientTimeout(total=30)
        )
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._session.close()

    async def ready(self) -> bool:
        import aiohttp

        try:
            async with self._session.get("/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def score(self, event: dict[str, Any]) -> dict[str, Any]:
        decision: dict[str, Any] = await self._post("score", event)
        return decision

    async def feedback(self, event_id: str, label: int) -> None:
        await self._post("feedback", {"event_id": event_id, "label": label})

    async def _post(self, verb: str, body: dict[str, Any]) -> Any:
        import aiohttp

        try:
            async with self._session.post(f"/v1/{self._domain}/{verb}", data=msgspec.json.encode(body)) as answer:
                text = await answer.read()
        except aiohttp.ClientConnectionError as failure:
            raise Unavailable(f"{self.where}: {failure}") from None
        if answer.status != 200:
            raise Refused(f"{answer.status} {text[:300].decode(errors='replace')}")
        return msgspec.json.decode(text)


class GrpcSender:
    """`vigil.v1.Decisions` over one channel.

    Args:
        domain: whose events are sent.
        address: as `127.0.0.1:3001`.
        key: API key; "" for none.
    """

    def __init__(self, domain: Domain, address: str, key: str = "") -> None:
        self._metadata = [("x-api-key", key)] if key else []
        self._domain, self._address = domain.name, address.removeprefix("grpc://")
        self._is_local = is_loopback(urlsplit(f"//{self._address}").hostname or "")
        proxy = "" if self._is_local else next((name for name in PROXIES if os.environ.get(name)), "")
        self.where = self._address
        if proxy:  # it may hold a password
            self.where += f" by the proxy {proxy}={os.environ[proxy].rpartition('@')[2]}"
        self._entities = [entity.name for entity in domain.entities]
        self._numbers = [number.name for number in domain.numbers]

    async def __aenter__(self) -> Self:
        import grpc

        from vigil.transports.proto import decisions_pb2_grpc as rpc

        # gRPC asks a proxy even for this machine's own addresses. aiohttp never does.
        direct = [("grpc.enable_http_proxy", 0)] if self._is_local else []
        self._channel = grpc.aio.insecure_channel(self._address, options=direct)
        self._stub: Any = rpc.DecisionsStub(self._channel)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._channel.close()

    async def ready(self) -> bool:
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        try:
            answer = await health_pb2_grpc.HealthStub(self._channel).Check(health_pb2.HealthCheckRequest())
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def score(self, event: dict[str, Any]) -> dict[str, Any]:
        from vigil.transports.proto import decisions_pb2 as pb

        entities = {key: str(event[key]) for key in self._entities}
        numbers = {key: event[key] for key in self._numbers}
        message = pb.Event(event_id=event["event_id"], ts_ms=event["ts"], entities=entities, numbers=numbers)
        answer = await self._call(self._stub.Score, pb.ScoreRequest(domain=self._domain, events=[message]))
        decision = answer.decisions[0]
        return {
            "event_id": decision.event_id,
            "risk": decision.risk,
            "action": decision.action,
            "reasons": list(decision.reasons),
            "model": decision.model,
            "tier": decision.tier,
            "degraded": decision.degraded,
        }

    async def feedback(self, event_id: str, label: int) -> None:
        from vigil.transports.proto import decisions_pb2 as pb

        labels = [pb.Label(event_id=event_id, label=label)]
        await self._call(self._stub.Feedback, pb.FeedbackRequest(domain=self._domain, labels=labels))

    async def _call(self, method: Any, request: Any) -> Any:
        import grpc

        try:
            return await method(request, timeout=30, metadata=self._metadata)
        except grpc.aio.AioRpcError as failure:
            if failure.code() == grpc.StatusCode.UNAVAILABLE:
                raise Unavailable(f"{self.where}: {failure.details()}") from None
            raise Refused(f"{failure.code().name} {failure.details()}") from None
