"""A real `bentoml serve` with a store and state of its own, for as long as the session's tests need it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc

from testbed import tiny_model
from testbed.served import Served
from vigil import domains

MAX_BODY_BYTES = 200_000


def serving(folder: Path, http_lane: str, grpc_server: str) -> Iterator[Served]:
    """A service with a small model; HTTP and gRPC served by one of their two implementations each."""
    environment = {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "VIGIL_MAX_PAST_S": str(100 * 366 * 86_400),  # tests share it: one's events of today, another's of 2018
        "VIGIL_HTTP_LANE": http_lane,
        "VIGIL_GRPC_SERVER": grpc_server,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
        tiny_model.store(folder, domains.load("payments"))
    with Served(".", folder / "log", environment) as service:
        yield service


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """By the fast implementations."""
    yield from serving(tmp_path_factory.mktemp("fast"), "protocol", "native")


@pytest.fixture(scope="session")
def served_plainly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """By plain ASGI and grpcio."""
    yield from serving(tmp_path_factory.mktemp("plain"), "asgi", "grpcio")


@pytest.fixture(params=["served", "served_plainly"], ids=["fast", "plain"])
def each_served(request: pytest.FixtureRequest) -> Served:
    """The service, once for each: they must not differ."""
    service: Served = request.getfixturevalue(request.param)
    return service


@pytest.fixture
def grpc_client(each_served: Served) -> Iterator[Any]:
    """Triton's own client, over gRPC."""
    with tritonclient.grpc.InferenceServerClient(each_served.grpc_address) as opened:
        yield opened


@pytest.fixture
def channel(each_served: Served) -> Iterator[grpc.Channel]:
    """A plain channel to the same port."""
    with grpc.insecure_channel(each_served.grpc_address) as opened:
        yield opened
