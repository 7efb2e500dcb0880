"""Shared state over TLS, by users with a password and no more rights than it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from testbed.served import free_port
from testbed.valkey import Valkey, ValkeyCluster
from tests.conftest import tool
from tests.features.every_feature import DOMAIN
from tests.features.shared_stores import store_at
from tests.features.tls import Certificates, Terminator
from vigil.domains.schema import Feedback
from vigil.errors import ConfigError, Unavailable
from vigil.features import transfer
from vigil.features.memory.store import MemoryStore
from vigil.features.shared.connection import Link
from vigil.settings import Settings

START = 1_600_000_000_000
FILES = ("ssl_ca_certs", "ssl_certfile")
USER = "vigil:se%2Fcret@"
RIGHTS = (
    "~vigil:*",
    "+@read",
    "+@write",
    "+@scripting",
    "+@connection",
    "+cluster|slots",
    "+cluster|info",
    "-@dangerous",
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture(scope="module", params=["before Valkey", "redis-server"])
def port(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[int]:
    """Where a server speaks TLS and asks for a certificate: Valkey behind a terminator, or Debian's own Redis."""
    found = free_port()
    with ExitStack() as started:
        if request.param == "before Valkey":
            server = started.enter_context(Valkey())
            started.enter_context(Terminator(found, server.port, certificates))
        else:
            pem = str(certificates.server)
            tls = ["--tls-port", str(found), "--tls-cert-file", pem, "--tls-key-file", pem]
            tls += ["--tls-ca-cert-file", str(certificates.authority)]
            server = started.enter_context(Valkey(*tls, program=tool("redis-server")))
        with server.client() as client:
            client.execute_command("ACL SETUSER", "vigil", "on", ">se/cret", *RIGHTS)
        yield found


def events(first: int, count: int) -> list[Any]:
    schema = MemoryStore(DOMAIN).schema
    return [
        schema.make({"event_id": i, "ts": START + i * 60_000, "a": "x", "b": f"b{i % 7}", "amount": i + 0.5})
        for i in range(first, first + count)
    ]


def test_a_user_with_a_password_and_a_certificate_gets_the_features_of_memory(
    port: int, certificates: Certificates
) -> None:
    store = store_at(f"rediss://{USER}127.0.0.1:{port}/0{certificates.query(*FILES)}")
    memory = MemoryStore(DOMAIN)
    for first in (0, 50):
        some = events(first, 50)
        assert store.apply_events(some)[0].tobytes() == memory.apply_events(some)[0].tobytes()
        labels = [Feedback(first + 7, 1)]
        assert store.feedback(labels).tolist() == memory.feedback(labels).tolist()
    store.link.close()


def test_the_authorities_of_the_process_are_those_of_its_state_too(
    port: int, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the chart's `tls.caSecret` names them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    store = store_at(f"rediss://{USER}127.0.0.1:{port}/2{certificates.query('ssl_certfile')}")
    memory, some = MemoryStore(DOMAIN), events(0, 50)
    assert store.apply_events(some)[0].tobytes() == memory.apply_events(some)[0].tobytes()
    store.link.close()


def test_the_same_user_may_move_the_state(port: int, certificates: Certificates, tmp_path: Path) -> None:
    settings = Settings(state_url=f"rediss://{USER}127.0.0.1:{port}/1{certificates.query(*FILES)}")
    memory = MemoryStore(DOMAIN)
    memory.apply_events(events(0, 100))
    transfer.install(memory, settings, True, lambda done: None)
    copy = transfer.export(DOMAIN, settings, tmp_path, lambda done: None)
    later = events(100, 50)
    assert copy.apply_events(later)[0].tobytes() == memory.apply_events(later)[0].tobytes()


@pytest.mark.parametrize(
    ("user", "host", "names", "why"),
    [
        (USER, "127.0.0.1", (), "certificate verify failed: self-signed certificate in certificate chain"),
        (USER, "localhost", FILES, "certificate is not valid for 'localhost'"),
        (USER, "127.0.0.1", ("ssl_ca_certs",), "ConnectionError"),  # closed, in words that differ
        ("vigil:wrong@", "127.0.0.1", FILES, "invalid username-password pair"),
    ],
    ids=["authority", "name", "certificate", "password"],
)
def test_what_does_not_fit_is_refused_with_the_reason_and_without_the_password(
    port: int, certificates: Certificates, user: str, host: str, names: tuple[str, ...], why: str
) -> None:
    store = store_at(f"rediss://{user}{host}:{port}{certificates.query(*names)}")
    with pytest.raises(Unavailable) as refusal:
        store.apply_events(events(0, 1))
    assert f"feature state rediss://{host}:{port} is away" in str(refusal.value)
    assert why in str(refusal.value)
    store.link.close()


def announced_by(client: redis.Redis) -> list[int]:
    return sorted(master[1] for _, _, master in client.execute_command("CLUSTER SLOTS"))


def test_a_cluster_is_spoken_to_over_tls_also_where_it_names_the_servers_itself(certificates: Certificates) -> None:
    with ExitStack() as started:
        servers = started.enter_context(ValkeyCluster())
        ports = [started.enter_context(Terminator(free_port(), n.port, certificates)).port for n in servers.nodes]
        clients = [started.enter_context(node.client()) for node in servers.nodes]
        for client, announced in zip(clients, ports, strict=True):
            client.config_set("cluster-announce-port", announced)
            client.execute_command("ACL SETUSER", "vigil", "on", ">se/cret", *RIGHTS)
        until_s = time.monotonic() + 20
        while not all(announced_by(client) == sorted(ports) for client in clients):  # they tell each other
            assert time.monotonic() < until_s
        store = store_at(f"rediss+cluster://{USER}127.0.0.1:{ports[0]}{certificates.query(*FILES)}")
        memory, some = MemoryStore(DOMAIN), events(0, 200)
        assert store.apply_events(some)[0].tobytes() == memory.apply_events(some)[0].tobytes()
        store.link.close()


@pytest.mark.parametrize("query", ["ssl_ca_certs=/none/such.pem", "ssl_certfile=/none/such.pem", "ssl_cert_regs=none"])
def test_an_address_whose_files_or_words_cannot_be_stops_the_start(query: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Link(f"rediss://vigil:secret@127.0.0.1:1?{query}", 100)
    assert "VIGIL_STATE_URL=rediss://127.0.0.1:1: " in str(refusal.value)
    assert query.partition("=")[0] in str(refusal.value)
    assert "secret" not in str(refusal.value)
