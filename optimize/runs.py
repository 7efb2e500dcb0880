"""What training left behind: the model, what is known of it, and rows to tune and measure with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.domains.spec import Domain
from vigil.errors import DataError, ModelRefused, NotFound

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_FILES = ("run.json", "model.keras", "rows.npz")
_KEYS = ("domain", "spec_hash", "feature_names", "metrics", "data_from", "data_to", "code_commit")
_ARRAYS = ("train_x", "valid_x", "valid_y", "test_x", "test_y")


@dataclass(frozen=True)
class Run:
    """A training run's folder, read.

    Args:
        folder: where it is.
        facts: `run.json`.
        train_x: float32 [n, F], raw feature rows that the model has learned from.
        valid_x: float32 [n, F], rows to choose by.
        valid_y: uint8 [n], their labels.
        test_x: float32 [n, F], rows that nothing was chosen by.
        test_y: uint8 [n], their labels.
    """

    folder: Path
    facts: dict[str, Any]
    train_x: Rows
    valid_x: Rows
    valid_y: Labels
    test_x: Rows
    test_y: Labels

    @property
    def model_path(self) -> Path:
        """The Keras model."""
        return self.folder / "model.keras"

    @property
    def features(self) -> int:
        """Columns of the model's input."""
        return int(self.train_x.shape[1])

    @property
    def reports(self) -> list[Path]:
        """The training report's files that exist."""
        return [path for name in ("report.md", "report.html") if (path := self.folder / name).is_file()]


def read(folder: Path, domain: Domain) -> Run:
    """The run in `folder`, checked to be one of `domain` as it is declared now.

    Raises:
        NotFound: where there is no complete run; the message names the command that makes one.
        DataError: where a key or an array is missing or has another shape.
        ModelRefused: where it was trained on another feature spec, with both hashes.
    """
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise NotFound(f"no training run in {folder} ({', '.join(missing)} missing); `vigil train` makes one")
    try:
        facts = json.loads((folder / "run.json").read_bytes())
        with np.load(folder / "rows.npz") as stored:
            arrays = {name: stored[name] for name in _ARRAYS if name in stored}
    except (OSError, ValueError) as failure:
        raise DataError(f"{folder}: cannot be read: {failure}") from None
    absent = [key for key in _KEYS if key not in facts] + [name for name in _ARRAYS if name not in arrays]
    if absent:
        raise DataError(f"{folder}: missing in run.json or rows.npz: {', '.join(absent)}")
    if (facts["domain"], facts["spec_hash"]) != (domain.name, domain.spec_hash):
        raise ModelRefused(
            f"{folder} was trained for {facts['domain']} with the feature spec {facts['spec_hash']}, but "
            f"{domain.name} has {domain.spec_hash}; `vigil train` trains for it"
        )
    _check_shapes(folder, arrays, len(domain.feature_names))
    x = {name: np.ascontiguousarray(arrays[name], np.float32) for name in _ARRAYS if name.endswith("x")}
    y = {name: arrays[name].astype(np.uint8) for name in _ARRAYS if name.endswith("y")}
    return Run(folder, facts, x["train_x"], x["valid_x"], y["valid_y"], x["test_x"], y["test_y"])


def _check_shapes(folder: Path, arrays: dict[str, Any], features: int) -> None:
    for part in ("train", "valid", "test"):
        x = arrays[f"{part}_x"]
        if x.ndim != 2 or x.shape[1] != features or not len(x):
            raise DataError(f"{folder}: {part}_x: got shape {list(x.shape)}, wanted [n, {features}] with n >= 1")
        y = arrays.get(f"{part}_y", x)
        if len(y) != len(x):
            raise DataError(f"{folder}: {part}_y: got {len(y)} labels, wanted {len(x)}")
        if y is not x and not (0 < int((y == 1).sum()) < len(y)):
            raise DataError(f"{folder}: {part}_y: got one class only, wanted labels 0 and 1")
