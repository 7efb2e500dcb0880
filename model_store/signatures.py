"""Signatures of models, as OpenSSF's model-signing has them (v1.0): a Sigstore bundle with a DSSE envelope over an
in-toto statement of every file's digest, beside the model as `model.sig`.

That tool takes ours and we take its (`model_signing verify key`, `verify certificate`). It is not used here: it would
bring fifteen packages, one of which it forgets to name, to check one ECDSA signature.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from vigil.errors import ConfigError, ModelRefused, quote

SIGNATURE_FILE = "model.sig"
# BentoML writes it anew where it copies a model; nothing here reads it.
IGNORED = ("model.yaml", SIGNATURE_FILE, ".git", ".gitattributes", ".github", ".gitignore")
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_STATEMENT, _PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
_HASHES = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
MOST_BYTES = 1 << 20  # of a signature


class Trust(NamedTuple):
    """Whose signatures are believed.

    Attributes:
        keys: public keys.
        authorities: certificates whose holders may give others the right to sign.
    """

    keys: tuple[ec.EllipticCurvePublicKey, ...]
    authorities: list[x509.Certificate]

    @classmethod
    def read(cls, path: Path) -> Trust:
        """Public keys and certificates from a PEM file, or from all files of a folder.

        Raises:
            ConfigError: where there are none, or what is there is something else.
        """
        keys: list[ec.EllipticCurvePublicKey] = []
        authorities: list[x509.Certificate] = []
        try:
            # A mounted Secret has folders of its own beside its files.
            files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
            for file in files:
                for block in _blocks(file.read_bytes()):
                    if b"CERTIFICATE" in block[:40]:
                        authorities.append(x509.load_pem_x509_certificate(block))
                    else:
                        keys.append(_elliptic(serialization.load_pem_public_key(block)))
        except (OSError, ValueError, UnsupportedAlgorithm) as failure:
            raise ConfigError(f"VIGIL_MODEL_TRUST={quote(str(path))}: {failure}") from None
        if not keys and not authorities:
            raise ConfigError(f"VIGIL_MODEL_TRUST={quote(str(path))}: wanted public keys or certificates as PEM")
        return cls(tuple(keys), authorities)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model that a signature covers, by its path in the folder.

    Raises:
        ModelRefused: for a link, or what cannot be read.
    """
    found = {}
    try:
        for base, folders, files in os.walk(folder):
            place = Path(base)
            folders[:] = sorted(name for name in folders if place != folder or name not in IGNORED)
            for name in sorted(files) + [name for name in folders if (place / name).is_symlink()]:
                path = place / name
                relative = path.relative_to(folder).as_posix()
                if relative in IGNORED:
                    continue
                if path.is_symlink() or not path.is_file():
                    raise ModelRefused(f"{path}: wanted a file; what a model has must lie in its folder")
                with path.open("rb") as file:
                    found[relative] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as failure:
        raise ModelRefused(f"{folder}: {failure}") from None
    return found


def sign(folder: Path, key: Path, certificates: Path | None = None) -> str:
    """Signs all files of a model; whose signature it is, for people.

    Args:
        folder: the model's.
        key: PEM file of a private key of P-256, P-384 or P-521, without a password.
        certificates: PEM file of the key's certificate, then those between it and an authority; None: the key alone.

    Raises:
        ConfigError: for a key or certificate that cannot sign.
        ModelRefused: where the files cannot be read.
    """
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in _HASHES:
            raise ValueError("wanted a private key of P-256, P-384 or P-521")
        chain = x509.load_pem_x509_certificates(certificates.read_bytes()) if certificates else []
        if chain and chain[0].public_key() != private.public_key():
            raise ValueError(f"{certificates} begins with the certificate of another key")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as failure:
        raise ConfigError(f"signing key {quote(str(key))}: {failure}") from None
    resources = [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in _ordered(digests(folder))]
    serialized = {
        "hash_type": "sha256",
        "method": "files",
        "allow_symlinks": False,
        "ignore_paths": list(IGNORED),
    }
    payload = msgspec.json.encode(
        {
            "_type": _STATEMENT,
            "subject": [{"name": f"{folder.parent.name}-{folder.name}", "digest": {"sha256": _root(resources)}}],
            "predicateType": _PREDICATE,
            "predicate": {"serialization": serialized, "resources": resources},
        }
    )
    signature = private.sign(_encoded(payload), ec.ECDSA(_HASHES[private.curve.name]))
    material: dict[str, Any] = {"publicKey": {"hint": _hint(private.public_key())}}
    if chain:
        raw = [base64.b64encode(each.public_bytes(serialization.Encoding.DER)).decode() for each in chain]
        material = {"x509CertificateChain": {"certificates": [{"rawBytes": each} for each in raw]}}
    bundle = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": material | {"tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    _write(folder / SIGNATURE_FILE, msgspec.json.encode(bundle))
    return _named(private.public_key(), chain)


def check(folder: Path, found: Mapping[str, str], trust: Trust, tag: str) -> str:
    """Passes for files that somebody who is trusted has signed; who, for people.

    Args:
        folder: of the model, with its signature.
        found: digests of its files, as `digests` gives them: of the very bytes that will be used.
        trust: whose signatures are believed.
        tag: of the model, for messages.

    Raises:
        ModelRefused: where there is no such signature, naming the reason.
    """
    path = folder / SIGNATURE_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError:
        raise ModelRefused(
            f"model {tag} is not signed, and VIGIL_MODEL_TRUST is set; `vigil models sign` does"
        ) from None
    try:
        if len(content) > MOST_BYTES:
            raise ValueError(f"over {MOST_BYTES} bytes")
        bundle = msgspec.json.decode(content)
        envelope, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        [signature] = [base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"]]
        if envelope["payloadType"] != _PAYLOAD_TYPE:
            raise ValueError(f"payload of type {quote(envelope['payloadType'])}")
        key, who = _key(material, trust)
        key.verify(signature, _encoded(payload), ec.ECDSA(_HASHES[key.curve.name]))
        signed = _signed(msgspec.json.decode(payload))
    except InvalidSignature:
        raise ModelRefused(
            f"model {tag}: its signature is not of what {path.name} says: it was tampered with"
        ) from None
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
        raise ModelRefused(f"model {tag}: {path.name}: {failure or 'no signature that can be read'}") from None
    changed = sorted(name for name in signed.keys() | found.keys() if signed.get(name) != found.get(name))
    if changed:
        raise ModelRefused(f"model {tag}: other files than {who} signed: {', '.join(map(quote, changed[:5]))}")
    return who


def _key(material: Mapping[str, Any], trust: Trust) -> tuple[ec.EllipticCurvePublicKey, str]:
    """The key that a signature is to be checked with, and whose it is.

    Raises:
        ValueError: where it is nobody's who is trusted.
    """
    if chain := material.get("x509CertificateChain"):
        given = [x509.load_der_x509_certificate(base64.b64decode(each["rawBytes"])) for each in chain["certificates"]]
        return _certified(given, trust), _named(None, given)
    hint = material["publicKey"].get("hint", "")
    for key in trust.keys:
        if hint in ("", _hint(key)):
            return key, _named(key, ())
    raise ValueError(f"signed by the key {quote(hint)}, which VIGIL_MODEL_TRUST does not name")


def _certified(given: Sequence[x509.Certificate], trust: Trust) -> ec.EllipticCurvePublicKey:
    if not trust.authorities:
        raise ValueError("signed by a certificate, and VIGIL_MODEL_TRUST names no authority")
    leaf = given[0]
    anything = ExtensionPolicy.permit_all()
    authority = anything.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    builder = PolicyBuilder().store(Store(trust.authorities)).time(datetime.now(UTC))
    policy = builder.extension_policies(ee_policy=anything, ca_policy=authority)
    try:
        policy.build_client_verifier().verify(leaf, list(given[1:]))
    except VerificationError as failure:
        raise ValueError(f"signed by the certificate of {leaf.subject.rfc4514_string()}: {failure}") from None
    if not _may_sign(leaf):
        raise ValueError(f"the certificate of {leaf.subject.rfc4514_string()} is not one to sign with")
    return _elliptic(leaf.public_key())


def _may_sign(certificate: x509.Certificate) -> bool:
    """Whether its key is for signatures, or for code."""
    for kind, allows in (
        (x509.KeyUsage, lambda usage: usage.digital_signature),
        (x509.ExtendedKeyUsage, lambda usage: ExtendedKeyUsageOID.CODE_SIGNING in usage),
    ):
        try:
            if allows(certificate.extensions.get_extension_for_class(kind).value):
                return True
        except x509.ExtensionNotFound:
            continue
    return False


def _signed(statement: Mapping[str, Any]) -> dict[str, str]:
    """Digests of files, by name, of a statement whose signature is good."""
    predicate = statement["predicate"]
    if statement["_type"] != _STATEMENT or statement["predicateType"] != _PREDICATE:
        raise ValueError(f"a statement of another kind: {quote(statement['predicateType'])}")
    if predicate["serialization"]["method"] != "files" or predicate["serialization"]["hash_type"] != "sha256":
        raise ValueError("wanted SHA-256 of whole files (`--hash-algorithm`, no shards)")
    resources, [subject] = predicate["resources"], statement["subject"]
    if subject["digest"]["sha256"] != _root(resources):
        raise ValueError("its root digest is not that of its files")
    return {each["name"]: each["digest"] for each in resources if each["name"] not in IGNORED}


def _root(resources: Sequence[Mapping[str, str]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()


def _ordered(found: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(found.items())


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE v1's pre-authentication encoding."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def _named(key: ec.EllipticCurvePublicKey | None, chain: Sequence[x509.Certificate]) -> str:
    if chain:
        return chain[0].subject.rfc4514_string() or f"certificate {chain[0].serial_number:x}"
    return f"key {_hint(key)[:16]}" if key else "nobody"


def _elliptic(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise ValueError("wanted keys of P-256, P-384 or P-521")
    return key


def _blocks(content: bytes) -> list[bytes]:
    parts = content.split(b"-----BEGIN ")[1:]
    return [b"-----BEGIN " + part for part in parts]


def _write(path: Path, content: bytes) -> None:
    made, name = tempfile.mkstemp(dir=path.parent.parent, prefix=".signature")
    try:
        with os.fdopen(made, "wb") as out:
            out.write(content)
            os.fchmod(out.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
