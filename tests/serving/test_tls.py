"""TLS of both ports, with and without certificates of clients."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme

from testbed.served import LOCALHOST, NotServed, Served
from tests.serving.calls import payment
from vigil.access import keys
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc

AUTHORITY, CLIENTS = trustme.CA(), trustme.CA()
CLIENT = CLIENTS.issue_cert("till-7@shop.example")


def issue(folder: Path, authority: trustme.CA = AUTHORITY) -> dict[str, str]:
    """A new certificate of the server, put where the settings look."""
    made = authority.issue_cert(LOCALHOST)
    files = {"VIGIL_TLS_CERT": folder / "tls.crt", "VIGIL_TLS_KEY": folder / "tls.key"}
    for file, blob in zip(files.values(), (made.cert_chain_pems[0], made.private_key_pem), strict=True):
        new = file.with_suffix(".new")
        blob.write_to_path(str(new))
        new.replace(file)
    return {name: str(file) for name, file in files.items()}


def trust(authority: trustme.CA = AUTHORITY, client: trustme.LeafCert | None = CLIENT) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client:
        client.configure_cert(context)
    return context


def http_answers(served: Served, context: ssl.SSLContext) -> bool:
    """Whether an event is scored over HTTP."""
    body = json.dumps(payment("tls")).encode()
    try:
        with urllib.request.urlopen(f"{served.url}/v1/payments/score", body, timeout=10, context=context) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ssl.SSLError, ConnectionError):
        return False


def grpc_answers(served: Served, authority: trustme.CA = AUTHORITY, client: trustme.LeafCert | None = CLIENT) -> bool:
    """Whether an event is scored over gRPC."""
    key, chain = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), key, chain)
    request = pb.ScoreRequest(domain="payments")
    request.events.add(
        event_id="tls-rpc", ts_ms=1_538_308_800_000, entities={"customer": "C", "terminal": "T"}, numbers={"amount": 3}
    )
    with grpc.secure_channel(served.grpc_address, credentials) as channel:
        try:
            return len(decisions_pb2_grpc.DecisionsStub(channel).Score(request, timeout=10).decisions) == 1
        except grpc.RpcError as failure:
            if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def mutual(folder: Path) -> Iterator[Served]:
    """A service that wants certificates of its clients."""
    CLIENTS.cert_pem.write_to_path(str(folder / "clients.pem"))
    environment = {
        **issue(folder),
        "VIGIL_TLS_CLIENT_CA": str(folder / "clients.pem"),
        "VIGIL_STATE_DIR": str(folder),
        "BENTOML_HOME": str(folder),
        "VIGIL_DOMAINS": "payments",
    }
    with Served(".", folder / "log", environment, path="/v2/health/live", trust=trust()) as service:
        yield service


def test_one_certificate_serves_http_and_grpc(mutual: Served) -> None:
    assert http_answers(mutual, trust())
    assert grpc_answers(mutual)
    log = mutual.log.read_text()
    assert f"listening on https://{LOCALHOST}:{mutual.port}" in log
    assert f"gRPC listens on {mutual.grpc_address} with TLS, served by grpcio" in log


def test_a_client_without_a_certificate_of_the_authority_is_refused(mutual: Served) -> None:
    assert not http_answers(mutual, trust(client=None))
    assert not grpc_answers(mutual, client=None)
    stranger = trustme.CA().issue_cert("till-7@shop.example")
    assert not http_answers(mutual, trust(client=stranger))
    assert not grpc_answers(mutual, client=stranger)


def test_a_certificate_that_is_known_takes_the_place_of_a_key(tmp_path: Path) -> None:
    CLIENTS.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    keys.create(tmp_path / "keys.json", "till", ["score"], subject="till-7@shop.example")
    environment = {
        **issue(tmp_path),
        "VIGIL_TLS_CLIENT_CA": str(tmp_path / "clients.pem"),
        "VIGIL_KEYS_FILE": str(tmp_path / "keys.json"),
        "VIGIL_STATE_DIR": str(tmp_path),
        "BENTOML_HOME": str(tmp_path),
        "VIGIL_DOMAINS": "payments",
    }
    stranger = CLIENTS.issue_cert("till-8@shop.example")
    for lane in ("protocol", "asgi"):
        own = environment | {"VIGIL_HTTP_LANE": lane}
        with Served(".", tmp_path / "log", own, path="/v2/health/live", trust=trust()) as service:
            assert http_answers(service, trust())
            assert not http_answers(service, trust(client=stranger))
            assert grpc_answers(service)
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                grpc_answers(service, client=stranger)


def test_a_client_that_trusts_another_authority_does_not_talk_to_the_server(mutual: Served) -> None:
    assert not http_answers(mutual, trust(trustme.CA()))
    assert not grpc_answers(mutual, trustme.CA())


def test_plain_text_is_refused_on_both_ports(mutual: Served) -> None:
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{mutual.address}/readyz", timeout=10)
    with grpc.insecure_channel(mutual.grpc_address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=10)


def test_new_files_are_taken_without_a_restart_and_bad_ones_are_not(mutual: Served, folder: Path) -> None:
    new = trustme.CA()
    (folder / "tls.crt").write_bytes(b"half of it")
    assert http_answers(mutual, trust())
    assert grpc_answers(mutual)
    issue(folder, new)
    assert http_answers(mutual, trust(new))
    assert grpc_answers(mutual, new)
    assert not http_answers(mutual, trust())
    assert not grpc_answers(mutual)
    others = trustme.CA()
    others.cert_pem.write_to_path(str(folder / "clients.pem"))
    other = others.issue_cert("till-8@shop.example")
    assert http_answers(mutual, trust(new, other))
    assert grpc_answers(mutual, new, other)
    assert not http_answers(mutual, trust(new))
    assert not grpc_answers(mutual, new)
    assert "the certificate in use stays: VIGIL_TLS_CERT=" in mutual.log.read_text()


def start(folder: Path, environment: dict[str, str], *arguments: str) -> Served:
    own = {"VIGIL_STATE_DIR": str(folder), "BENTOML_HOME": str(folder), "VIGIL_DOMAINS": "payments"}
    return Served(
        ".", folder / "log", own | environment, path="/v2/health/live", arguments=arguments, trust=trust(client=None)
    )


def test_bentoml_s_options_mean_the_settings_and_hold_for_grpc(tmp_path: Path) -> None:
    files = issue(tmp_path)
    options = ("--ssl-certfile", files["VIGIL_TLS_CERT"], "--ssl-keyfile", files["VIGIL_TLS_KEY"])
    with start(tmp_path, {}, *options) as service:
        assert http_answers(service, trust(client=None))
        assert grpc_answers(service, client=None)


@pytest.mark.parametrize(
    ("environment", "arguments", "said"),
    [
        ({}, ("--ssl-certfile", "tls.crt"), "VIGIL_TLS_CERT=tls.crt: set VIGIL_TLS_KEY too"),
        ({}, ("--ssl-ca-certs", "ca.pem"), "--ssl-ca-certs: gRPC would not follow it; set VIGIL_TLS_CERT,"),
        (
            {"VIGIL_TLS_CERT": "a.crt"},
            ("--ssl-certfile", "b.crt"),
            "--ssl-certfile b.crt: VIGIL_TLS_CERT=a.crt says otherwise; set one",
        ),
    ],
)
def test_options_that_cannot_hold_for_grpc_stop_the_start_in_one_line(
    environment: dict[str, str], arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(NotServed, match=said) as caught, start(tmp_path, environment, *arguments):
        pass
    assert "Traceback" not in str(caught.value)
