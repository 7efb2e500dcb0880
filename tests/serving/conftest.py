"""A real `bentoml serve` with a store and state of its own, for as long as the session's tests need it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import tritonclient.grpc

from loadtest.served import Served
from tests.serving import tiny_model
from vigil import domains

MAX_BODY_BYTES = 200_000


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    environment = {
        "BENTOML_HOME": str(folder / "bento"),
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
        tiny_model.store(folder, domains.load("payments"))
    with Served(".", folder / "log", environment) as service:
        yield service


@pytest.fixture
def grpc_client(served: Served) -> Iterator[Any]:
    """Triton's own client, over gRPC."""
    with tritonclient.grpc.InferenceServerClient(served.grpc_address) as opened:
        yield opened


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    """A plain channel to the same port."""
    with grpc.insecure_channel(served.grpc_address) as opened:
        yield opened
