"""Which gRPC server answers, and how it starts."""

from __future__ import annotations

import asyncio
import socket

import pytest

from vigil.errors import ConfigError
from vigil.settings import Settings
from vigil.transports.grpc.server import GrpcServer, native
from vigil.transports.worker import Worker


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_by_itself_pygrpc_native_serves_this_machine_s_own_callers(host: str) -> None:
    assert native("auto", host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.168.0.7", "example.org"])
def test_by_itself_pygrpc_native_does_not_serve_a_network(host: str) -> None:
    assert not native("auto", host)
    assert native("native", host)


def test_without_pygrpc_native_grpcio_serves_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vigil.transports.grpc.server.find_spec", lambda name: None)
    assert not native("auto", "127.0.0.1")
    with pytest.raises(ConfigError, match="VIGIL_GRPC_SERVER=native: pygrpc-native is not installed"):
        native("native", "127.0.0.1")


@pytest.mark.parametrize("choice", ["native", "grpcio"])
def test_a_taken_port_stops_the_start(choice: str) -> None:
    async def main(port: int) -> None:
        await GrpcServer(Worker(Settings(grpc_port=port, grpc_server=choice))).start()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"gRPC port 127.0.0.1:{port} is in use or not ours to take"):
            asyncio.run(main(port))
