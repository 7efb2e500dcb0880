"""Stored models as people see them on the command line."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

import model_store
from vigil.errors import quote


def overview() -> Table:
    """All stored models, newest first, and the aliases that mean them."""
    table = Table(title="models in the store", title_justify="left", caption=str(model_store.root()))
    for column in ("model", "aliases", "created", "candidate", "AP", "AUC", "data until"):
        table.add_column(column, overflow="fold")
    for stored in model_store.list_models():
        manifest = stored.manifest
        pointing = [
            alias for alias, version in model_store.aliases(manifest.domain).items() if version == manifest.version
        ]
        table.add_row(
            manifest.tag,
            ", ".join(sorted(pointing)),
            manifest.created[:19],
            manifest.candidate,
            _metric(manifest.metrics.get("average_precision")),
            _metric(manifest.metrics.get("auc")),
            manifest.data_to[:10],
        )
    return table


def page(name: str, reference: str) -> Group:
    """One model: what its manifest says.

    Raises:
        NotFound: where there is none; ModelRefused where its manifest cannot be read.
    """
    manifest = model_store.resolve(name, reference).manifest
    facts = Table(title=manifest.tag, title_justify="left", show_header=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for key in ("candidate", "digest", "spec_hash", "data_from", "data_to", "code_commit", "created"):
        facts.add_row(key, str(getattr(manifest, key)))
    facts.add_row("features", f"{len(manifest.feature_names)}: {', '.join(manifest.feature_names)}")
    for key, value in manifest.metrics.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {_metric(found)}" for name, found in value.items())
        facts.add_row(key, _metric(value))
    candidates = Table(title="candidates", title_justify="left")
    columns = list(manifest.candidates[0]) if manifest.candidates else []
    for column in columns:
        candidates.add_column(column)
    for row in manifest.candidates:
        candidates.add_row(*(_metric(row.get(column)) for column in columns))
    return Group(facts, candidates)


def _metric(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else "" if value is None else quote(value, 200)
