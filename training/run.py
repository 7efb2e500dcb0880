"""The folder a training leaves behind, for `optimize` and for people."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from training.pipeline import NETWORK, Trained
from training.split import date_of
from training.writeup import report
from vigil.features.history import History

MOST_SAMPLE_ROWS = 200_000


def write(trained: Trained, out: Path, created: datetime) -> None:
    """Writes model.keras, rows.npz, report.md, report.html and, last, run.json.

    Args:
        out: the folder; files of an earlier run are replaced.
        created: the time to note down.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").unlink(missing_ok=True)
    trained.model.save(out / "model.keras")
    _write_rows(trained, out / "rows.npz")
    text = report(trained)
    (out / "report.md").write_text(text.markdown())
    (out / "report.html").write_text(text.page())
    (out / "run.json").write_text(json.dumps(_described(trained, created), indent=1) + "\n")


def code_commit() -> str:
    """The commit of this code, with "-dirty" where files were changed since; "unknown" outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _described(trained: Trained, created: datetime) -> dict[str, object]:
    domain, history, split = trained.history.domain, trained.history, trained.split
    return {
        "domain": domain.name,
        "spec_hash": domain.spec_hash,
        "feature_names": domain.feature_names,
        "features_used": trained.used,
        "metrics": trained.measures[NETWORK] | {"validation": trained.on_validation},
        "baselines": {name: found for name, found in trained.measures.items() if name != NETWORK},
        "candidates": [
            {"name": c.name, "features": len(c.features), "ap": c.ap, "chosen": c.chosen} for c in trained.candidates
        ],
        "importance": trained.importance,
        "split": {
            part.name: {"from": date_of(part.first_day), "to": date_of(part.end_day - 1), "rows": len(part.rows)}
            for part in split.parts
        },
        "gap_days": split.gap_days,
        "data_from": _moment(history, 0),
        "data_to": _moment(history, -1),
        "rows": len(history),
        "fraud_rate": float(np.mean(history.labels[history.labels >= 0])),
        "code_commit": code_commit(),
        "seed": trained.plan.seed,
        "created": created.astimezone(UTC).isoformat(timespec="seconds"),
    }


def _write_rows(trained: Trained, path: Path) -> None:
    labels = trained.history.labels.astype(np.uint8)
    rows = trained.train_rows
    if len(rows) > MOST_SAMPLE_ROWS:
        rows = np.sort(np.random.default_rng(trained.plan.seed).choice(rows, MOST_SAMPLE_ROWS, replace=False))
    parts = {"train": rows, "valid": trained.split.valid.rows, "test": trained.split.test.rows}
    columns = {f"{name}_x": trained.features[at] for name, at in parts.items()}
    columns |= {f"{name}_y": labels[at] for name, at in parts.items()}
    np.savez(path, **columns)


def _moment(history: History, at: int) -> str:
    return datetime.fromtimestamp(history.ts_ms[at] / 1000, UTC).isoformat(timespec="milliseconds")
