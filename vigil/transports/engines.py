"""What ways in see of the process that holds them: its engines, and whether it is ready."""

from __future__ import annotations

from typing import Protocol

from vigil.access.gate import Gate
from vigil.decisions.recorder import Recorder
from vigil.domains.spec import Domain
from vigil.engine import Engine
from vigil.scoring.session import Session
from vigil.settings import Settings


class Engines(Protocol):
    """The engines of a process; `vigil.serving.process.ServingProcess` is what a service has.

    Attributes:
        settings: of the process.
        gate: that every call passes.
        domains: that it serves, in order.
        by_name: an engine each, once it has started.
        recorder: of decisions; None where none are kept.
        failure: why the start failed, in one line; "" where it did not.
    """

    settings: Settings
    gate: Gate
    domains: tuple[Domain, ...]
    by_name: dict[str, Engine]
    recorder: Recorder | None
    failure: str

    def get(self, name: str, what: str = "domain") -> Engine:
        """The engine of the domain (the model) `name`.

        Raises:
            NotFound: listing those there are.
        """

    def not_ready(self, degraded: bool = False) -> str:
        """Why this process should get no traffic; "" where it should.

        Args:
            degraded: whether it should while the feature state is away: rules answer then.
        """

    async def load(self, name: str) -> Session:
        """Takes the store's present model of that name, while requests go on; readiness and health follow.

        Raises:
            NotFound, ModelRefused: as `ServedModel.load`; what was loaded stays.
        """

    async def unload(self, name: str) -> None:
        """Lets the rules tier answer; readiness and health follow.

        Raises:
            NotFound: listing the models there are.
        """
