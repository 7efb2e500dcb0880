"""Which gRPC server answers, and how it starts."""

from __future__ import annotations

import asyncio
import socket
import time

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testbed.served import free_port
from vigil.errors import ConfigError
from vigil.serving.process import ServingProcess
from vigil.settings import Settings, load
from vigil.transports.grpc.server import OPTIONS, GrpcServer, native


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_by_itself_pygrpc_native_serves_this_machine_s_own_callers(host: str) -> None:
    assert native(Settings(grpc_host=host))
    assert not native(Settings(grpc_host=host, grpc_connection_age_s=3))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.168.0.7", "example.org"])
def test_pygrpc_native_does_not_serve_a_network(host: str) -> None:
    assert not native(Settings(grpc_host=host))
    with pytest.raises(ConfigError, match=r"VIGIL_GRPC_HOST=.*: pygrpc-native does not bound a message in memory"):
        native(Settings(grpc_host=host, grpc_server="native"))


def test_pygrpc_native_is_refused_where_it_lacks_what_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="VIGIL_GRPC_CONNECTION_AGE_S; set grpcio"):
        native(Settings(grpc_server="native", grpc_connection_age_s=3))
    assert not native(Settings(tls_cert="tls.crt"))
    with pytest.raises(ConfigError, match="VIGIL_TLS_CERT; set grpcio"):
        native(Settings(grpc_server="native", tls_cert="tls.crt"))


@pytest.mark.parametrize("choice", ["native", "grpcio"])
@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0::1"])
def test_an_ipv6_address_is_served_with_and_without_brackets(choice: str, host: str) -> None:
    async def main() -> str:
        settings = Settings(grpc_host=host, grpc_port=free_port(), grpc_server=choice)
        server = GrpcServer(ServingProcess(settings))
        await server.start()
        async with grpc.aio.insecure_channel(f"[::1]:{settings.grpc_port}") as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        await server.stop(1)
        return server.address

    assert asyncio.run(main()).startswith("[::1]:")


def test_all_addresses_of_both_families_are_served_by_one_setting() -> None:
    async def main() -> None:
        settings = Settings(access="open", grpc_host="[::]", grpc_port=free_port())
        server = GrpcServer(ServingProcess(settings))
        await server.start()
        for host in ("[::1]", "127.0.0.1"):
            async with grpc.aio.insecure_channel(f"{host}:{settings.grpc_port}") as channel:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        await server.stop(1)

    asyncio.run(main())


@pytest.mark.parametrize("host", ["unix:/tmp/vigil", "dns:localhost", "127.0.0.1:3001", "[::1]:3001", "a b", ""])
def test_what_is_no_host_stops_the_start(host: str) -> None:
    with pytest.raises(ConfigError, match=r"VIGIL_GRPC_HOST=.*wanted an IPv4 or IPv6 address or a host name"):
        load({"VIGIL_GRPC_HOST": host})


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [(key, 300 if key.endswith("handshake_timeout_ms") else value) for key, value in OPTIONS]
    monkeypatch.setattr("vigil.transports.grpc.server.OPTIONS", options)

    async def main() -> bytes:
        server = GrpcServer(ServingProcess(Settings(grpc_port=free_port(), grpc_server="grpcio")))
        await server.start()
        reader, writer = await asyncio.open_connection(*server.address.split(":"))
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await server.stop(1)
        return said

    asyncio.run(main())


def test_without_pygrpc_native_grpcio_serves_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vigil.transports.grpc.server.find_spec", lambda name: None)
    assert not native(Settings())
    with pytest.raises(ConfigError, match="VIGIL_GRPC_SERVER=native: pygrpc-native is not installed"):
        native(Settings(grpc_server="native"))


def test_a_connection_that_has_grown_old_ends_and_no_call_with_it() -> None:
    async def main() -> tuple[int, int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = GrpcServer(ServingProcess(Settings(grpc_port=port, grpc_server="grpcio", grpc_connection_age_s=0.2)))
        await server.start()
        peers, calls = set(), 0
        async with grpc.aio.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            until_s = time.monotonic() + 2
            while time.monotonic() < until_s:
                await asyncio.gather(*(health.Check(health_pb2.HealthCheckRequest()) for _ in range(10)))
                calls += 10
                peers |= {
                    each.raddr.port
                    for each in psutil.Process().net_connections("tcp")
                    if each.laddr.port == port and each.raddr
                }
        await server.stop(1)
        return len(peers), calls

    connections, calls = asyncio.run(main())
    assert connections > 3
    assert calls > 100


@pytest.mark.parametrize("choice", ["native", "grpcio"])
def test_a_taken_port_stops_the_start(choice: str) -> None:
    async def main(port: int) -> None:
        await GrpcServer(ServingProcess(Settings(grpc_port=port, grpc_server=choice))).start()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"gRPC port 127.0.0.1:{port} is in use or not ours to take"):
            asyncio.run(main(port))
