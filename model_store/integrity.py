"""Is a stored model what it says, and was it made for these features?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from model_store import signatures
from model_store.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from model_store.stored import StoredModel
from vigil.domains.spec import Domain
from vigil.errors import ModelRefused

MOST_BYTES = 2 << 30  # of a model, which is what ONNX allows in one file


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(stored: StoredModel, domain: Domain, trust: Path | None = None) -> bytes:
    """The file of a model, for one whose file and feature spec are those of its manifest and of `domain`.

    These very bytes were looked at: a file can be another one a moment later.

    Args:
        stored: the model.
        domain: whose events it is to score.
        trust: PEM file, or folder of them, of those whose signatures are believed; None: none is asked for.

    Raises:
        ConfigError: where `trust` cannot be read.
        ModelRefused: naming the part that differs, with the value that came and the one wanted.
    """
    manifest = stored.manifest
    if manifest.tag != stored.tag:
        raise ModelRefused(f"model {stored.tag}: its manifest says {manifest.tag}: it was copied by hand")
    if manifest.spec_hash != domain.spec_hash:
        raise ModelRefused(
            f"model {stored.tag} was made for the feature spec {manifest.spec_hash}, but the domain {domain.name} "
            f"has {domain.spec_hash}; `vigil train` and `vigil optimize` make one for it"
        )
    if manifest.feature_names != domain.feature_names:
        raise ModelRefused(
            f"model {stored.tag} takes the features {', '.join(manifest.feature_names)}; "
            f"the domain {domain.name} has {', '.join(domain.feature_names)}"
        )
    return read(stored, trust)


def read(stored: StoredModel, trust: Path | None = None) -> bytes:
    """The file of a model, for one that is as it was stored, and signed where that is asked for.

    Raises:
        ConfigError: where `trust` cannot be read.
        ModelRefused: with both digests, or why its signature does not count.
    """
    believed = signatures.Trust.read(trust) if trust else None
    try:
        if stored.onnx_path.stat().st_size > MOST_BYTES:
            raise ModelRefused(f"model {stored.tag}: {MODEL_FILE} is over {MOST_BYTES} bytes")
        model, manifest = stored.onnx_path.read_bytes(), (stored.path / MANIFEST_FILE).read_bytes()
    except OSError as failure:
        raise ModelRefused(f"model {stored.tag}: {stored.onnx_path} cannot be read: {failure}") from None
    if Manifest.parse(manifest, stored.path / MANIFEST_FILE) != stored.manifest:
        raise ModelRefused(f"model {stored.tag}: {MANIFEST_FILE} was changed while it was read")
    _check_digest(stored, model)
    if believed:
        used = {MODEL_FILE: model, MANIFEST_FILE: manifest}
        found = signatures.digests(stored.path) | {
            name: hashlib.sha256(content).hexdigest() for name, content in used.items()
        }
        signatures.check(stored.path, found, believed, stored.tag)
    return model


def _check_digest(stored: StoredModel, model: bytes) -> None:
    if (found := hashlib.sha256(model).hexdigest()) != stored.manifest.digest:
        raise ModelRefused(
            f"model {stored.tag}: {stored.onnx_path.name} has the digest {found}, its manifest says "
            f"{stored.manifest.digest}: the file was changed after it was stored"
        )
