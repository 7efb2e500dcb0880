"""A real `bentoml serve` with a store and state of its own, for as long as the session's tests need it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc

from loadtest.served import Served
from tests.serving import tiny_model
from vigil import domains

MAX_BODY_BYTES = 200_000


def serving(folder: Path, grpc_server: str) -> Iterator[Served]:
    """A service with a small model; its gRPC port served by one of the two implementations."""
    environment = {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "VIGIL_GRPC_SERVER": grpc_server,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
        tiny_model.store(folder, domains.load("payments"))
    with Served(".", folder / "log", environment) as service:
        yield service


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from serving(tmp_path_factory.mktemp("native"), "native")


@pytest.fixture(scope="session")
def served_by_grpcio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from serving(tmp_path_factory.mktemp("grpcio"), "grpcio")


@pytest.fixture(params=["served", "served_by_grpcio"], ids=["native", "grpcio"])
def grpc_served(request: pytest.FixtureRequest) -> Served:
    """The service, once for each implementation of the gRPC server: they must not differ."""
    service: Served = request.getfixturevalue(request.param)
    return service


@pytest.fixture
def grpc_client(grpc_served: Served) -> Iterator[Any]:
    """Triton's own client, over gRPC."""
    with tritonclient.grpc.InferenceServerClient(grpc_served.grpc_address) as opened:
        yield opened


@pytest.fixture
def channel(grpc_served: Served) -> Iterator[grpc.Channel]:
    """A plain channel to the same port."""
    with grpc.insecure_channel(grpc_served.grpc_address) as opened:
        yield opened
