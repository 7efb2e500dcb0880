"""The BentoML service: wiring only. `bentoml serve` in this folder finds it.

`bentoml serve` imports this file twice: in the process that starts workers, which needs nothing
heavy, and in each worker, where `to_asgi` puts Vigil's lane in front of BentoML's application.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import bentoml
import numpy as np
from bentoml.exceptions import ServiceUnavailable
from bentoml.models import BentoModel
from bentoml.validators import DType, Shape
from pydantic import AfterValidator

import model_store
from vigil import domains
from vigil.errors import ModelRefused, NotFound, Unavailable
from vigil.serving import supervisor

if TYPE_CHECKING:
    from vigil.serving.process import ServingProcess

REQUEST_TIMEOUT_S = 60
SETTINGS = supervisor.configuration()
# BentoML then says https and tells uvicorn; the lane brings the context.
SSL: Any = {"enabled": bool(SETTINGS.tls_cert)}
if SETTINGS.tls_cert:
    SSL |= {"certfile": str(SETTINGS.tls_cert), "keyfile": str(SETTINGS.tls_key)}
ABOUT = """# Vigil

Real-time risk prediction: events in, features on the fly, a calibrated risk and a decision out.

Events go to `/v1/{domain}/score`, what turned out to be true to `/v1/{domain}/feedback`. Feature rows go to
`/v2/models/{domain}/infer` (Open Inference Protocol) or to `/predict` (BentoML's own clients).
"""
# BentoML's own API has no domain in its path: it is the first one served.
DOMAIN = domains.select(SETTINGS.domains)[0]


@cache
def process() -> ServingProcess:
    """What this process serves with."""
    from vigil.serving.process import ServingProcess

    return ServingProcess(SETTINGS)


class LaneService(bentoml.Service):  # type: ignore[misc]
    """A BentoML service whose workers answer Vigil's routes ahead of BentoML's middleware."""

    def __attrs_post_init__(self) -> None:
        """Names the models that the aliases mean now: `bentoml build` takes them along."""
        super().__attrs_post_init__()
        for domain in domains.select(SETTINGS.domains):
            with suppress(NotFound, ModelRefused):  # without a model, rules answer
                self.models.append(BentoModel(model_store.resolve(domain.name, SETTINGS.model_alias).tag))

    def to_asgi(self, is_main: bool = True) -> Any:
        """BentoML's application, behind the lane, on connections of the lane's own."""
        import uvicorn.config

        from vigil.transports.http.control import ControlPort
        from vigil.transports.http.lane import Lane
        from vigil.transports.tls import Certificates

        supervisor.obey()
        # uvicorn would believe X-Forwarded-For of any caller on this machine.
        options: dict[str, Any] = {"proxy_headers": False}
        if certificates := Certificates.of(SETTINGS):
            context = certificates.context()
            options["ssl_context_factory"] = lambda *_: context
        uvicorn.Config = partial(uvicorn.Config, **options)  # type: ignore
        lane = Lane(super().to_asgi(is_main), process())
        uvicorn.config.HTTP_PROTOCOLS["auto"] = lane.protocol()  # type: ignore[assignment]
        if SETTINGS.admin_port:
            process().ports.append(ControlPort(lane, lane.protocol(), SETTINGS.admin_port))
        return lane

    @property
    def doc(self) -> str:
        """What the page of the API begins with."""
        return ABOUT

    @property
    def openapi_spec(self) -> Any:
        """BentoML's, and Vigil's own routes."""
        from vigil.transports.http import openapi

        return openapi.extend(super().openapi_spec, domains.select(SETTINGS.domains))


def _finite(features: np.ndarray) -> np.ndarray:
    # Checked here, ahead of BentoML's batching, so that bad rows fail their own caller only.
    if features.ndim != 2 or features.shape[1] != len(DOMAIN.features) or not np.isfinite(features).all():
        raise ValueError(f"features: got shape {list(features.shape)}, wanted finite rows of {len(DOMAIN.features)}")
    return features.astype(np.float32, copy=False)


Features = Annotated[np.ndarray, Shape((-1, len(DOMAIN.features))), DType("float32"), AfterValidator(_finite)]


@bentoml.service(
    name="vigil",
    service_class=LaneService,
    workers=SETTINGS.workers,
    traffic={"timeout": REQUEST_TIMEOUT_S},
    metrics={"enabled": True},
    ssl=SSL,
    logging={"access": {"enabled": False}},
    http={"host": supervisor.HOST, "port": supervisor.PORT},
)
class Vigil:
    """Risk prediction in real time. Events go to `/v1/{domain}/score`, feature rows to `/v2` or `/predict`."""

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def predict(self, features: Features) -> np.ndarray:
        """Risks [n] of feature rows [n, F], in the order of the domain's feature spec."""
        try:
            return process().get(DOMAIN.name).model.current().run(features)
        except Unavailable as failure:
            raise ServiceUnavailable(str(failure)) from None

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """State, models, gRPC: before the first request is taken."""
        await process().start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """After the last request in flight."""
        await process().stop()
