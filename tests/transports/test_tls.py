"""Certificates: what stops the start, and the names in those of clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from testbed.served import LOCALHOST
from vigil.errors import ConfigError
from vigil.settings import Settings
from vigil.transports.tls import Certificates, grpc_peer, http_peer

AUTHORITY = trustme.CA()
NAMES = ("till 7", "till-7@shop.example", "till-7.shop.example")


def write(folder: Path, leaf: trustme.LeafCert) -> tuple[Path, Path]:
    files = folder / "tls.crt", folder / "tls.key"
    leaf.cert_chain_pems[0].write_to_path(str(files[0]))
    leaf.private_key_pem.write_to_path(str(files[1]))
    return files


@pytest.fixture
def mutual(tmp_path: Path) -> Certificates:
    """Wants certificates of its clients."""
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return Certificates(*write(tmp_path, AUTHORITY.issue_cert(LOCALHOST)), tmp_path / "ca.pem")


def client() -> trustme.LeafCert:
    return AUTHORITY.issue_cert(*NAMES[1:], common_name=NAMES[0])


def lacking_key(folder: Path) -> dict[str, Any]:
    return {"tls_cert": folder / "tls.crt"}


def lacking_certificate(folder: Path) -> dict[str, Any]:
    return {"tls_key": folder / "tls.key"}


def authority_alone(folder: Path) -> dict[str, Any]:
    return {"tls_client_ca": folder / "ca.pem"}


def absent(folder: Path) -> dict[str, Any]:
    return {"tls_cert": folder / "none.crt", "tls_key": folder / "tls.key"}


def another_key(folder: Path) -> dict[str, Any]:
    AUTHORITY.issue_cert(LOCALHOST).private_key_pem.write_to_path(str(folder / "other.key"))
    return {"tls_cert": folder / "tls.crt", "tls_key": folder / "other.key"}


def no_pem(folder: Path) -> dict[str, Any]:
    (folder / "bad.crt").write_text("nothing")
    return {"tls_cert": folder / "bad.crt", "tls_key": folder / "tls.key"}


def no_authority(folder: Path) -> dict[str, Any]:
    (folder / "bad.pem").write_text("nothing")
    return {"tls_cert": folder / "tls.crt", "tls_key": folder / "tls.key", "tls_client_ca": folder / "bad.pem"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lacking_key, "VIGIL_TLS_CERT=.*tls.crt: set VIGIL_TLS_KEY too"),
        (lacking_certificate, "VIGIL_TLS_KEY=.*tls.key: set VIGIL_TLS_CERT too"),
        (authority_alone, "VIGIL_TLS_CLIENT_CA=.*ca.pem: set VIGIL_TLS_CERT and VIGIL_TLS_KEY too"),
        (absent, "VIGIL_TLS_CERT=.*none.crt: No such file or directory"),
        (another_key, "VIGIL_TLS_CERT=.*, VIGIL_TLS_KEY=.*other.key: the key is not the certificate's"),
        (no_pem, "VIGIL_TLS_CERT=.*bad.crt.*wanted PEM"),
        (no_authority, "VIGIL_TLS_CLIENT_CA=.*bad.pem: .*"),
    ],
)
def test_files_that_cannot_serve_stop_the_start_in_one_line(
    given: Callable[[Path], dict[str, Any]], said: str, tmp_path: Path
) -> None:
    write(tmp_path, AUTHORITY.issue_cert(LOCALHOST))
    with pytest.raises(ConfigError, match=said) as caught:
        Certificates.of(Settings(**given(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_key_with_a_password_stops_the_start_and_asks_nobody(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    cert, key = write(tmp_path, AUTHORITY.issue_cert(LOCALHOST))
    plain = pem.load_pem_private_key(key.read_bytes(), None)
    secret = pem.BestAvailableEncryption(b"secret")
    key.write_bytes(plain.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret))
    with pytest.raises(ConfigError, match="a key without a password"):
        Certificates(cert, key)


def test_without_settings_there_is_no_tls() -> None:
    assert Certificates.of(Settings()) is None


def test_the_names_of_a_client_are_known_over_grpc(mutual: Certificates) -> None:
    class Names(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            async def answer(request: bytes, context: Any) -> bytes:
                return "\n".join(grpc_peer(context)).encode()

            return grpc.unary_unary_rpc_method_handler(answer)

    async def main() -> list[str]:
        server = grpc.aio.server(handlers=[Names()])
        port = server.add_secure_port(f"{LOCALHOST}:0", mutual.credentials())
        await server.start()
        leaf, authority = client(), AUTHORITY.cert_pem.bytes()
        own = grpc.ssl_channel_credentials(authority, leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())
        async with grpc.aio.secure_channel(f"{LOCALHOST}:{port}", own) as channel:
            answer: bytes = await channel.unary_unary("/x/y")(b"", timeout=10)
        await server.stop(None)
        return answer.decode().split("\n")

    names = asyncio.run(main())
    assert (names[0], set(names)) == (NAMES[0], set(NAMES))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_names_of_a_client_are_known_over_http(mutual: Certificates, loop: str) -> None:
    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else asyncio.new_event_loop

    async def main() -> tuple[str, ...]:
        seen: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.set_result(http_peer(writer.transport))
            writer.close()

        server = await asyncio.start_server(serve, LOCALHOST, 0, ssl=mutual.context())
        context = ssl.create_default_context()
        AUTHORITY.configure_trust(context)
        client().configure_cert(context)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2], ssl=context)
        names = await asyncio.wait_for(seen, 10)
        writer.close()
        server.close()
        return names

    with asyncio.Runner(loop_factory=factory) as runner:
        names = runner.run(main())
    assert (names[0], set(names)) == (NAMES[0], set(NAMES))


def test_a_caller_without_tls_has_no_names() -> None:
    class Plain:
        def get_extra_info(self, name: str) -> None: ...

        def auth_context(self) -> dict[str, list[bytes]]:
            return {"security_level": [b"TSI_SECURITY_NONE"]}

    assert http_peer(Plain()) == grpc_peer(Plain()) == ()
