"""Putting a model into the store, under a new version."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_store.integrity import sha256
from model_store.layout import root
from model_store.manifest import MODEL_FILE, Manifest
from model_store.promotion import check_alias, set_alias
from model_store.signatures import sign


def save(
    onnx_path: Path,
    *,
    domain: str,
    spec_hash: str,
    feature_names: Iterable[str],
    candidate: str,
    metrics: Mapping[str, Any],
    candidates: Iterable[Mapping[str, Any]],
    data_from: str,
    data_to: str,
    code_commit: str,
    created: str,
    risk_edges: Iterable[float] = (),
    risk_shares: Iterable[float] = (),
    extra_files: Iterable[Path] = (),
    alias: str | None = "champion",
    key: Path | None = None,
    certificates: Path | None = None,
) -> str:
    """Copies a model with its manifest and `extra_files` into the store and lets `alias` mean it.

    The other arguments are fields of :class:`model_store.Manifest`.

    Args:
        onnx_path: the ONNX file.
        extra_files: kept beside it under their own names, such as reports.
        alias: pointed at the new version; None: none is.
        key, certificates: as `model_store.sign` takes them; without a key it is not signed.

    Returns:
        The tag, `name:version`.

    Raises:
        InvalidInput: for an alias that cannot be one; nothing is stored then.
        ConfigError: for a key that cannot sign; it is stored then, and no alias means it.
    """
    if alias is not None:
        check_alias(alias)
    # BentoML reports each save to its makers unless told not to; a user may still say otherwise.
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    import bentoml
    from bentoml._internal.models import ModelStore

    root().mkdir(parents=True, exist_ok=True)
    tag = bentoml.Tag(domain, _new_version())
    manifest = Manifest(
        domain=domain,
        version=str(tag.version),
        digest=sha256(onnx_path),
        spec_hash=spec_hash,
        feature_names=tuple(feature_names),
        candidate=candidate,
        metrics=dict(metrics),
        candidates=tuple(dict(row) for row in candidates),
        data_from=data_from,
        data_to=data_to,
        code_commit=code_commit,
        created=created,
        risk_edges=tuple(risk_edges),
        risk_shares=tuple(risk_shares),
    )
    labels = {"domain": domain, "candidate": candidate.replace(" ", "-")}
    notes = {"digest": manifest.digest, "spec_hash": spec_hash, "code_commit": code_commit}
    with bentoml.models.create(
        tag, module="onnxruntime", labels=labels, metadata=notes, _model_store=ModelStore(root())
    ) as draft:
        folder = Path(draft.path)
        shutil.copyfile(onnx_path, folder / MODEL_FILE)
        for extra in extra_files:
            shutil.copyfile(extra, folder / extra.name)
        manifest.write(folder)
    if key:
        sign(root() / domain / manifest.version, key, certificates)
    if alias is not None:
        set_alias(domain, alias, manifest.version)
    return manifest.tag


def _new_version() -> str:
    """The time, UTC to the millisecond, as digits: clients made for Triton read a version as a 64-bit number."""
    return datetime.now(UTC).strftime("%Y%m%d%H%M%S%f")[:-3]
