"""The gate: who may call, and which addresses may be listened on."""

from __future__ import annotations

import json
import time
import timeit
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from vigil.access import gate, keys, tokens
from vigil.access.gate import Gate
from vigil.access.identity import ANY, PUBLIC, SCOPES
from vigil.errors import ConfigError, Forbidden, RateLimited, Unauthenticated
from vigil.serving.process import ServingProcess
from vigil.settings import Settings

LOOPBACK = {"--host": "127.0.0.1", "VIGIL_GRPC_HOST": "::1"}


def settings(folder: Path, **given: Any) -> Settings:
    return Settings(state_dir=folder, **given)


def bearer(text: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + text.encode()}


def test_a_key_opens_what_its_scopes_name_and_nothing_else(tmp_path: Path) -> None:
    made = {scope: keys.create(tmp_path / "keys.json", scope, [scope])[1] for scope in SCOPES}
    door = Gate(settings(tmp_path, access="keys"))
    for scope, text in made.items():
        for wanted in SCOPES:
            if wanted == scope:
                assert door.admit(bearer(text), wanted).name == scope
            else:
                with pytest.raises(Forbidden, match=f"this call needs {wanted}; the key .* has {scope}"):
                    door.admit(bearer(text), wanted)
        assert door.admit({b"x-api-key": text.encode()}, ANY).id == text.split("_")[1]
    assert door.admit({}, PUBLIC).name == "nobody"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Basic dmlnaWw6dmlnaWw="},
        {b"authorization": b"Bearer vigil_00000000_" + b"A" * 43},
        {b"x-api-key": b"\x00\xff"},
        {b"x-api-key": b"x" * 60_000},
    ],
)
def test_what_is_no_key_opens_nothing(tmp_path: Path, given: dict[bytes, bytes]) -> None:
    keys.create(tmp_path / "keys.json", "till", SCOPES)
    door = Gate(settings(tmp_path))
    for scope in (*SCOPES, ANY):
        with pytest.raises(Unauthenticated):
            door.admit(given, scope)


def test_a_change_of_the_file_counts_at_the_next_look_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, one = keys.create(path, "till", ["score"])
    door = Gate(settings(tmp_path))
    _, two = keys.create(path, "till", ["score"])
    with pytest.raises(Unauthenticated):
        door.admit(bearer(two), "score")
    door.look()
    assert door.admit(bearer(one), "score").name == door.admit(bearer(two), "score").name == "till"
    keys.revoke(path, first.id)
    good = path.read_bytes()
    path.write_bytes(b"{")
    door.look()
    assert door.admit(bearer(one), "score").name == "till"
    path.write_bytes(good)
    door.look()
    with pytest.raises(Unauthenticated):
        door.admit(bearer(one), "score")
    path.unlink()
    door.look()
    with pytest.raises(Unauthenticated):  # no keys: nobody, not everybody
        door.admit(bearer(two), "score")


def test_a_key_that_has_expired_opens_nothing_without_a_look(tmp_path: Path) -> None:
    end = datetime.now(UTC) + timedelta(seconds=0.3)
    _, text = keys.create(tmp_path / "keys.json", "till", ["score"], end)
    door = Gate(settings(tmp_path))
    door.admit(bearer(text), "score")
    time.sleep(0.4)
    with pytest.raises(Unauthenticated, match="not any more"):
        door.admit(bearer(text), "score")


def test_a_look_at_a_key_takes_less_than_a_microsecond_or_so(tmp_path: Path) -> None:
    _, text = keys.create(tmp_path / "keys.json", "till", ["score"])
    door, given = Gate(settings(tmp_path)), bearer(text)
    rounds = sorted(timeit.repeat(lambda: door.admit(given, "score"), number=20_000, repeat=9))
    assert rounds[0] / 20_000 < 5e-6  # for a busy machine; docs/benchmarks.md has what a quiet one gives


def test_a_certificate_opens_what_its_subject_may(tmp_path: Path) -> None:
    keys.create(tmp_path / "keys.json", "till", ["score"], subject="till-7.example")
    door = Gate(settings(tmp_path))
    assert door.admit({}, "score", subjects=("x", "till-7.example")).name == "till"
    for subject in ("", "till-8.example"):
        with pytest.raises(Unauthenticated):
            door.admit({}, "score", subjects=(subject,))


HOSTS = [
    ("local", "", b"localhost", b"", True),
    ("local", "", b"LocalHost:3000", b"", True),
    ("local", "", b"127.0.0.1:3000", b"http://localhost:3000", True),
    ("local", "", b"127.3.2.1", b"", True),
    ("local", "", b"[::1]:3000", b"http://[::1]:8080", True),
    ("local", "", b"evil.example", b"", False),
    ("local", "", b"localhost.evil.example", b"", False),
    ("local", "", b"127.0.0.1.evil.example", b"", False),
    ("local", "", b"", b"", False),
    ("local", "", b"localhost", b"https://evil.example", False),
    ("local", "", b"localhost", b"null", False),
    ("local", "", b"localhost", b"http://localhost.evil.example", False),
    ("local", "", b"localhost", b"http://localhost@evil.example", False),
    ("local", "risk.example", b"risk.example", b"https://risk.example", True),
    ("local", "risk.example", b"risk.example:8443", b"", True),
    ("open", "", b"evil.example", b"https://evil.example", True),
    ("open", "risk.example", b"evil.example", b"", False),
    ("open", "risk.example", b"localhost", b"", False),
]


@pytest.mark.parametrize(("access", "allowed", "host", "origin", "may"), HOSTS)
def test_whose_pages_may_call(tmp_path: Path, access: str, allowed: str, host: bytes, origin: bytes, may: bool) -> None:
    door = Gate(settings(tmp_path, access=access, allowed_hosts=allowed))
    headers = {b"host": host} | ({b"origin": origin} if origin else {})
    if may:
        door.check_host(headers)
    else:
        with pytest.raises(Forbidden, match="wanted this machine's own, or one in VIGIL_ALLOWED_HOSTS"):
            door.check_host(headers)


def test_without_keys_only_this_machine_is_listened_to(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "10.1.2.3", "risk.example"):
        for name in LOOPBACK:
            with pytest.raises(ConfigError, match=f"{name} {host}: others can call, and there are no keys; make one"):
                gate.resolve(settings(tmp_path), LOOPBACK | {name: host})
    assert gate.resolve(settings(tmp_path), LOOPBACK) == "local"
    assert gate.resolve(settings(tmp_path, access="open"), {"--host": "0.0.0.0"}) == "open"
    with pytest.raises(ConfigError, match="VIGIL_ACCESS=keys: none in"):
        gate.resolve(settings(tmp_path, access="keys"), LOOPBACK)
    with pytest.raises(ConfigError, match="others can call"):
        gate.resolve(settings(tmp_path, access="local"), {"--host": "0.0.0.0"})
    keys.create(tmp_path / "keys.json", "till", ["score"])
    assert gate.resolve(settings(tmp_path), {"--host": "0.0.0.0"}) == "keys"
    assert gate.resolve(settings(tmp_path), LOOPBACK) == "keys"
    assert gate.resolve(settings(tmp_path, access="local"), LOOPBACK) == "local"


RSA, EC = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
CLAIMS = {"iss": "https://issuer.example", "aud": "vigil", "sub": "till-7", "scope": "openid score read"}


def jwks(folder: Path, **private: Any) -> str:
    """A file of public keys, by their ids."""
    found = []
    for kid, key in private.items():
        algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        found.append(json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"})
    (folder / "jwks.json").write_text(json.dumps({"keys": found}))
    return str(folder / "jwks.json")


def token(key: Any = RSA, algorithm: str = "RS256", kid: str = "one", **changed: Any) -> str:
    claims = CLAIMS | {"exp": datetime.now(UTC) + timedelta(minutes=5)} | changed
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={"kid": kid})


@pytest.fixture
def issued(tmp_path: Path) -> Gate:
    source = jwks(tmp_path, one=RSA, two=EC)
    return Gate(settings(tmp_path, jwt_keys=source, jwt_issuer=CLAIMS["iss"], jwt_audience=CLAIMS["aud"]))


def test_a_token_of_the_issuer_opens_what_its_scopes_name(issued: Gate) -> None:
    for text in (token(), token(EC, "ES256", "two"), token(scope=["score"])):
        identity = issued.admit(bearer(text), "score")
        assert (identity.name, identity.id) == ("sub:till-7", "")  # no key has such a name in limits and records
        assert issued.admit(bearer(text), "score") is identity  # remembered
        with pytest.raises(Forbidden, match="needs admin"):
            issued.admit(bearer(text), "admin")


BAD = {
    "of another issuer": lambda: token(iss="https://other.example"),
    "for another audience": lambda: token(aud="other"),
    "for nobody": lambda: token(aud=None),
    "without an end": lambda: token(exp=None),
    "ended": lambda: token(exp=datetime.now(UTC) - timedelta(minutes=5)),
    "not yet": lambda: token(nbf=datetime.now(UTC) + timedelta(minutes=5)),
    "of nobody": lambda: token(sub=None),
    "of another key": lambda: token(rsa.generate_private_key(65537, 2048)),
    "of an unknown key": lambda: token(kid="three"),
    "of one key's name and the other's kind": lambda: token(EC, "ES256", "one"),
    "signed by nobody": lambda: jwt.encode(CLAIMS, None, "none", headers={"kid": "one"}),
    "signed by the public key as if it were secret": lambda: jwt.encode(
        CLAIMS | {"exp": datetime.now(UTC) + timedelta(minutes=5)}, "x" * 64, "HS256", headers={"kid": "one"}
    ),
    "cut short": lambda: token()[:-9],
    "changed": lambda: token().replace(".", ".e", 1),
    "too long": lambda: token(more="x" * 20_000),
    "dots": lambda: "..",
}


@pytest.mark.parametrize("kind", BAD)
def test_no_other_token_is_believed(issued: Gate, kind: str) -> None:
    with pytest.raises(Unauthenticated):
        issued.admit(bearer(BAD[kind]()), "score")


def test_a_token_counts_no_longer_than_the_key_that_signed_it(issued: Gate, tmp_path: Path, monkeypatch: Any) -> None:
    text = token()
    assert issued.admit(bearer(text), "score").name == "sub:till-7"
    jwks(tmp_path, one=rsa.generate_private_key(65537, 2048), two=EC)  # another key by the same name
    monkeypatch.setattr(tokens, "REREAD_S", 0.0)

    def ask_on() -> None:
        for _ in range(3000):
            issued.admit(bearer(text), "score")
            time.sleep(0.01)

    with pytest.raises(Unauthenticated):
        ask_on()


def test_a_key_with_a_limit_of_its_own_can_come_to_who_had_only_tokens(tmp_path: Path) -> None:
    source = jwks(tmp_path, one=RSA)
    wanted = settings(tmp_path, jwt_keys=source, jwt_issuer=CLAIMS["iss"], jwt_audience=CLAIMS["aud"])
    door = ServingProcess(wanted).gate
    _, text = keys.create(tmp_path / "keys.json", "till", ["score"], rate=0.001, burst=1)
    door.look()
    door.admit(bearer(text), "score")
    with pytest.raises(RateLimited):
        door.admit(bearer(text), "score")


def test_tokens_need_an_issuer_and_an_audience_and_keys_that_are_some(tmp_path: Path) -> None:
    source = jwks(tmp_path, one=RSA)
    for given, why in (
        ({"jwt_keys": source, "jwt_audience": "vigil"}, "wanted VIGIL_JWT_ISSUER beside it"),
        ({"jwt_keys": source, "jwt_issuer": "i"}, "wanted VIGIL_JWT_AUDIENCE beside it"),
        ({"jwt_keys": str(tmp_path / "none"), "jwt_issuer": "i", "jwt_audience": "a"}, "No such file"),
    ):
        with pytest.raises(ConfigError, match=why):
            Gate(settings(tmp_path, **given))


def test_what_is_remembered_of_a_caller_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, text = keys.create(path, "till", ["score"])
    keys.create(path, "other", ["admin"], subject="ops.example")
    door = Gate(settings(tmp_path))
    for _ in range(3):
        assert (
            door.admit(bearer(text), "score").name == door.admit({b"x-api-key": text.encode()}, "score").name == "till"
        )
        assert door.admit({}, "admin", subjects=("ops.example",)).name == "other"
        for nobody in ({}, {b"x-api-key": b""}, {b"authorization": b"Bearer"}, {b"authorization": text.encode()}):
            with pytest.raises(Unauthenticated):
                door.admit(nobody, "score")
        with pytest.raises(Forbidden):
            door.admit(bearer(text), "admin")
        # The certificate of one and the key of another: the key counts.
        assert door.admit(bearer(text), "score", subjects=("ops.example",)).name == "till"
    keys.revoke(path, first.id)
    door.look()
    with pytest.raises(Unauthenticated):
        door.admit(bearer(text), "score")


def test_a_file_that_could_not_be_read_is_read_once_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    first, text = keys.create(path, "till", ["score"])
    keys.create(path, "other", ["score"])
    door = Gate(settings(tmp_path))
    keys.revoke(path, first.id)
    with monkeypatch.context() as patch:

        def no_descriptors(path: Path) -> list[keys.Key]:
            raise ConfigError(f"keys in {path}: Too many open files")

        patch.setattr(keys, "read", no_descriptors)
        for _ in range(3):
            door.look()
    assert door.admit(bearer(text), "score").name == "till"
    assert len(caplog.records) == 1
    door.look()  # the file is the same as at the looks before
    with pytest.raises(Unauthenticated):
        door.admit(bearer(text), "score")


@pytest.mark.parametrize("text", [b"Basic Og==", b"Bearer", b"x"])
def test_a_text_beside_a_certificate_opens_nothing_without_it(tmp_path: Path, text: bytes) -> None:
    keys.create(tmp_path / "keys.json", "ops", ["admin"], subject="ops.example")
    door, given = Gate(settings(tmp_path)), {b"authorization": text}
    assert door.admit(given, "admin", subjects=("ops.example",)).name == "ops"
    with pytest.raises(Unauthenticated):
        door.admit(given, "admin")
