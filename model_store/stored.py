"""Finding models: by name, then by alias or version, in the folders BentoML keeps them in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model_store.aliases import aliases
from model_store.layout import root
from model_store.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from vigil.errors import NotFound


@dataclass(frozen=True)
class StoredModel:
    """One version of a model.

    Args:
        tag: `name:version`.
        path: its folder.
        manifest: what it says of itself; :func:`model_store.verify` checks that.
    """

    tag: str
    path: Path
    manifest: Manifest

    @property
    def onnx_path(self) -> Path:
        """The model's file."""
        return self.path / MODEL_FILE


def resolve(name: str, reference: str = "champion") -> StoredModel:
    """The model that an alias or a version means; `latest` is the one stored last.

    Raises:
        NotFound: where there is none; the message lists what there is, or which commands make a first one.
        ModelRefused: where its manifest cannot be read.
    """
    found = versions(name)
    known = aliases(name)
    version = known.get(reference, reference)
    if reference == "latest" and reference not in known:
        version = max(found.values(), key=_stored_at).name
    if version not in found:
        gone = f", which means the deleted version {version}" if reference in known else ""
        pointers = ", ".join(f"{alias} -> {target}" for alias, target in sorted(known.items())) or "none"
        raise NotFound(
            f"no model {name}@{reference}{gone}; aliases: {pointers}; versions: {', '.join(sorted(found))}; "
            f"`vigil models promote {name} VERSION` sets an alias"
        )
    path = found[version]
    return StoredModel(f"{name}:{version}", path, Manifest.read(path))


def versions(name: str) -> dict[str, Path]:
    """Folders of a model's versions, by version.

    Raises:
        NotFound: where there is none; the message says what there is, and which commands make a first one.
    """
    found = _versions(name)
    if not found:
        named = ", ".join(each for each in _names() if _versions(each)) or "no models at all"
        raise NotFound(
            f"no model {name!r} in the store {root()}, which holds {named}; "
            f"`vigil train --domain {name}` and then `vigil optimize --domain {name}` make one"
        )
    return found


def list_models(name: str | None = None) -> list[StoredModel]:
    """All models of Vigil in the store, or those of one name, newest first. Models of others are left out."""
    found = [
        StoredModel(f"{each}:{version}", path, Manifest.read(path))
        for each in _names()
        if name in (None, each)
        for version, path in _versions(each).items()
    ]
    return sorted(found, key=lambda model: _stored_at(model.path), reverse=True)


def _names() -> list[str]:
    folder = root()
    return sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []


def _versions(name: str) -> dict[str, Path]:
    """Folders with a manifest, by version. Names come from outside: only what the store lists counts."""
    if name not in _names():
        return {}
    return {child.name: child for child in sorted((root() / name).iterdir()) if (child / MANIFEST_FILE).is_file()}


def _stored_at(path: Path) -> tuple[str, int]:
    return Manifest.read(path).created, (path / MANIFEST_FILE).stat().st_mtime_ns
