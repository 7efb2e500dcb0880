"""Signed models: by OpenSSF's own tool and by ours, and all that is not what somebody trusted has signed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import model_store
from model_store.signatures import SIGNATURE_FILE, Trust
from tests.conftest import CLIENTS, part
from vigil.domains.spec import Domain
from vigil.errors import ConfigError, ModelRefused


def private_pem(path: Path, key: Any) -> Path:
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return path


def public_pem(path: Path, *keys: Any) -> Path:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(b"".join(key.public_key().public_bytes(serialization.Encoding.PEM, form) for key in keys))
    return path


def certificate(
    name: str,
    key: Any,
    issuer: tuple[x509.Certificate, Any] | None = None,
    authority: bool = False,
    days: tuple[int, int] = (-1, 30),
    *more: tuple[Any, bool],
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above, signer = issuer or (None, key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("models.example")]), critical=False)
    )
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())


SIGNS = (x509.KeyUsage(True, *([False] * 8)), True)
CODE = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
CERTS = (x509.KeyUsage(False, False, False, False, False, True, False, False, False), True)
KEYS = {curve.name: ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())}
MINE, OTHER = KEYS["secp256r1"], ec.generate_private_key(ec.SECP256R1())


def pems(path: Path, *certificates: x509.Certificate) -> Path:
    path.write_bytes(b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates))
    return path


@pytest.fixture
def stored(store_model: Callable[..., str]) -> model_store.StoredModel:
    return model_store.resolve("tills", store_model())


@pytest.mark.parametrize("curve", KEYS)
def test_what_is_signed_by_a_trusted_key_is_believed(
    stored: model_store.StoredModel, tmp_path: Path, domain: Domain, curve: str
) -> None:
    trust = public_pem(tmp_path / "trust.pem", OTHER, KEYS[curve])
    with pytest.raises(ModelRefused, match="not signed, and VIGIL_MODEL_TRUST is set"):
        model_store.verify(stored, domain, trust)
    model_store.sign(stored.path, private_pem(tmp_path / "key.pem", KEYS[curve]))
    assert model_store.verify(stored, domain, trust) == stored.onnx_path.read_bytes()
    with pytest.raises(ModelRefused, match=r"signed by the key .*, which VIGIL_MODEL_TRUST does not name"):
        model_store.verify(stored, domain, public_pem(tmp_path / "others.pem", OTHER))
    assert model_store.promote("tills", stored.manifest.version, "safe", trust).tag == stored.tag


def test_a_certificate_counts_while_it_and_its_authority_do(
    stored: model_store.StoredModel, tmp_path: Path, domain: Domain
) -> None:
    root_key, middle_key, foreign = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = certificate("root", root_key, None, True, (-1, 30), CERTS)
    middle = certificate("middle", middle_key, (root, root_key), True, (-1, 30), CERTS)
    stranger = certificate("root", foreign, None, True, (-1, 30), CERTS)
    key, trust = private_pem(tmp_path / "key.pem", MINE), pems(tmp_path / "trust.pem", root)
    above = (middle, middle_key)
    cases = {
        "": (certificate("ml", MINE, above, False, (-1, 30), SIGNS), [middle]),
        "code": (certificate("ml", MINE, above, False, (-1, 30), CODE), [middle]),
        "not one to sign with": (certificate("ml", MINE, above), [middle]),
        "valid at": (certificate("ml", MINE, above, False, (-9, -1), SIGNS), [middle]),
        "not yet": (certificate("ml", MINE, above, False, (1, 9), SIGNS), [middle]),
        "candidates exhausted": (certificate("ml", MINE, above, False, (-1, 30), SIGNS), []),
        "of another": (certificate("ml", MINE, (stranger, foreign), False, (-1, 30), SIGNS), [stranger]),
        "of one that is no authority": (
            certificate("x", MINE, (certificate("ml", OTHER, above, False, (-1, 30), SIGNS), OTHER)),
            [certificate("ml", OTHER, above, False, (-1, 30), SIGNS), middle],
        ),
    }
    for why, (leaf, chain) in cases.items():
        model_store.sign(stored.path, key, pems(tmp_path / "chain.pem", leaf, *chain))
        if why in ("", "code"):
            model_store.verify(stored, domain, trust)
            continue
        with pytest.raises(ModelRefused):
            model_store.verify(stored, domain, trust)
    with pytest.raises(ConfigError, match="certificate of another key"):
        model_store.sign(stored.path, private_pem(tmp_path / "o.pem", OTHER), tmp_path / "chain.pem")


def test_what_is_stored_with_a_key_is_signed_before_an_alias_means_it(
    home: Path, tmp_path: Path, domain: Domain
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"a model")
    facts: dict[str, Any] = {"domain": "tills", "spec_hash": domain.spec_hash, "feature_names": domain.feature_names}
    facts |= {"candidate": "c", "metrics": {}, "candidates": [], "data_from": "", "data_to": "", "code_commit": ""}
    facts |= {"created": "2026-01-01T00:00:00Z"}
    model_store.save(tmp_path / "m.onnx", **facts, key=private_pem(tmp_path / "key.pem", MINE))
    model_store.verify(model_store.resolve("tills"), domain, public_pem(tmp_path / "trust.pem", MINE))
    with pytest.raises(ConfigError, match="signing key"):
        model_store.save(tmp_path / "m.onnx", **facts, alias="next", key=tmp_path / "none.pem")
    assert "next" not in model_store.aliases("tills")


def tampered(stored: model_store.StoredModel, change: Callable[[dict[str, Any]], None]) -> None:
    bundle = json.loads((stored.path / SIGNATURE_FILE).read_bytes())
    change(bundle)
    (stored.path / SIGNATURE_FILE).write_text(json.dumps(bundle))


def of_payload(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def apply(bundle: dict[str, Any]) -> None:
        envelope = bundle["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        change(statement)
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    return apply


TAMPERED: dict[str, Callable[[model_store.StoredModel], Any]] = {
    "another file beside it": lambda stored: (stored.path / "more").write_text("x"),
    "a file that is gone": lambda stored: (stored.path / "optimization.md").unlink(),
    "a report that was changed": lambda stored: (stored.path / "optimization.md").write_text("x"),
    "a manifest that was changed": lambda stored: (stored.path / "manifest.json").write_text(
        (stored.path / "manifest.json").read_text().replace("0.75", "0.99")
    ),
    "a folder that was added": lambda stored: ((stored.path / "d").mkdir(), (stored.path / "d" / "f").write_text("")),
    "a link": lambda stored: (stored.path / "link").symlink_to("/etc/hostname"),
    "a linked folder": lambda stored: (stored.path / "link").symlink_to("/etc"),
    "a report behind a link": lambda stored: (
        shutil.move(stored.path / "optimization.md", stored.path.parent.parent / "o.md"),
        (stored.path / "optimization.md").symlink_to(stored.path.parent.parent / "o.md"),
    ),
    "no signature": lambda stored: (stored.path / SIGNATURE_FILE).write_text(""),
    "a signature cut short": lambda stored: (stored.path / SIGNATURE_FILE).write_bytes(
        (stored.path / SIGNATURE_FILE).read_bytes()[:-40]
    ),
    "a list": lambda stored: (stored.path / SIGNATURE_FILE).write_text("[]"),
    "deep": lambda stored: (stored.path / SIGNATURE_FILE).write_text("[" * 100_000),
    "large": lambda stored: (stored.path / SIGNATURE_FILE).write_bytes(b" " * (2 << 20)),
    "no signatures in it": lambda stored: tampered(stored, lambda b: b["dsseEnvelope"].update(signatures=[])),
    "two of them": lambda stored: tampered(
        stored, lambda b: b["dsseEnvelope"].update(signatures=2 * b["dsseEnvelope"]["signatures"])
    ),
    "another payload": lambda stored: tampered(
        stored, of_payload(lambda s: s["predicate"]["resources"][0].update(digest="0" * 64))
    ),
    "the payload written anew": lambda stored: tampered(stored, of_payload(lambda s: None)),
    "another type of payload": lambda stored: tampered(stored, lambda b: b["dsseEnvelope"].update(payloadType="x")),
    "a type that is none": lambda stored: tampered(stored, lambda b: b["dsseEnvelope"].update(payload=5)),
    "no material": lambda stored: tampered(stored, lambda b: b.update(verificationMaterial={})),
    "no certificates": lambda stored: tampered(
        stored, lambda b: b.update(verificationMaterial={"x509CertificateChain": {"certificates": []}})
    ),
    "bytes for certificates": lambda stored: tampered(
        stored,
        lambda b: b.update(verificationMaterial={"x509CertificateChain": {"certificates": [{"rawBytes": "AA=="}]}}),
    ),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_nothing_else_is_believed(
    stored: model_store.StoredModel, tmp_path: Path, domain: Domain, kind: str, request: pytest.FixtureRequest
) -> None:
    trust = public_pem(tmp_path / "trust.pem", MINE)
    model_store.sign(stored.path, private_pem(tmp_path / "key.pem", MINE))
    TAMPERED[kind](stored)
    with pytest.raises(ModelRefused, match=stored.tag.replace(":", ".") + "|wanted a file"):
        model_store.verify(model_store.resolve("tills", stored.manifest.version), domain, trust)


def test_the_signature_of_another_model_is_not_one(
    store_model: Callable[..., str], tmp_path: Path, domain: Domain
) -> None:
    trust, key = public_pem(tmp_path / "trust.pem", MINE), private_pem(tmp_path / "key.pem", MINE)
    first, second = (model_store.resolve("tills", store_model(content)) for content in (b"one", b"two"))
    model_store.sign(first.path, key)
    shutil.copy(first.path / SIGNATURE_FILE, second.path / SIGNATURE_FILE)
    with pytest.raises(ModelRefused, match=r"other files than key .* signed: 'manifest.json', 'model.onnx'"):
        model_store.verify(second, domain, trust)


@pytest.mark.parametrize("content", [b"", b"nothing", b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"])
def test_who_is_trusted_must_be_somebody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trust.pem").write_bytes(content)
    for path in (tmp_path / "trust.pem", tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="VIGIL_MODEL_TRUST="):
            Trust.read(path)


def test_a_key_of_another_kind_is_refused(stored: model_store.StoredModel, tmp_path: Path) -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(ConfigError, match="P-256"):
            model_store.sign(stored.path, private_pem(tmp_path / "key.pem", key))
    with pytest.raises(ConfigError, match="P-256"):
        Trust.read(public_pem(tmp_path / "trust.pem", ed25519.Ed25519PrivateKey.generate()))


def test_openssfs_tool_believes_ours_and_we_its(
    stored: model_store.StoredModel, tmp_path: Path, domain: Domain
) -> None:
    tool = part(CLIENTS / "model-signing" / "bin" / "model_signing", "make clients")
    key, trust = private_pem(tmp_path / "key.pem", MINE), public_pem(tmp_path / "trust.pem", MINE)
    signature = stored.path / SIGNATURE_FILE

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)

    model_store.sign(stored.path, key)
    done = run("verify", "key", "--public_key", trust, "--signature", signature, stored.path)
    assert done.returncode == 0, done.stderr
    signature.unlink()
    ignored = ("--ignore-paths", stored.path / "model.yaml")
    done = run("sign", "key", "--private_key", key, "--signature", signature, *ignored, stored.path)
    assert done.returncode == 0, done.stderr
    model_store.verify(stored, domain, trust)
    (stored.path / "optimization.md").write_text("changed")
    assert run("verify", "key", "--public_key", trust, "--signature", signature, stored.path).returncode
    with pytest.raises(ModelRefused):
        model_store.verify(stored, domain, trust)
