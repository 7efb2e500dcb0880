"""Is a stored model what it says, and was it made for these features?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from model_store.stored import StoredModel
from vigil.domains.spec import Domain
from vigil.errors import ModelRefused


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(stored: StoredModel, domain: Domain) -> None:
    """Passes for a model whose file and feature spec are those of its manifest and of `domain`.

    Raises:
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
    check_digest(stored)


def check_digest(stored: StoredModel) -> None:
    """Passes for a model whose file is the one that was stored.

    Raises:
        ModelRefused: with both digests.
    """
    try:
        found = sha256(stored.onnx_path)
    except OSError as failure:
        raise ModelRefused(f"model {stored.tag}: {stored.onnx_path} cannot be read: {failure}") from None
    if found != stored.manifest.digest:
        raise ModelRefused(
            f"model {stored.tag}: {stored.onnx_path.name} has the digest {found}, its manifest says "
            f"{stored.manifest.digest}: the file was changed after it was stored"
        )
