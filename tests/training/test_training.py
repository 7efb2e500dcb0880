"""`python -m training` as a user runs it, small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from training import __main__ as command_line
from training.network import risks
from vigil import domains
from vigil.features.memory.snapshot import read_snapshot
from vigil.features.memory.store import MemoryStore

PAYMENTS = domains.load("payments")


def training(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    environ = os.environ | {"VIGIL_STATE_DIR": str(state), "COLUMNS": "120"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("state")
    done = training("--days", "40", "--customers", "300", "--terminals", "600", "--epochs", "3", state=state)
    assert done.returncode == 0, done.stderr
    assert "Keras network" in done.stdout
    return state / "training" / "payments"


def test_the_run_folder_is_complete(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    assert facts["spec_hash"] == PAYMENTS.spec_hash
    assert facts["feature_names"] == list(PAYMENTS.feature_names)
    assert set(facts["features_used"]) <= set(PAYMENTS.feature_names)
    assert facts["data_from"].startswith("2018-04-01T")
    assert facts["data_to"].startswith("2018-05-10T")
    assert (run / "report.md").read_text().startswith("# Training report: payments")
    page = (run / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 5
    assert "://" not in page


def test_the_model_finds_far_more_than_chance(run: Path) -> None:
    with np.load(run / "rows.npz") as rows:
        x, y = rows["test_x"], rows["test_y"]
    model = keras.models.load_model(run / "model.keras")
    facts = json.loads((run / "run.json").read_text())
    measured = average_precision_score(y, risks(model, x))
    assert measured == pytest.approx(facts["metrics"]["average_precision"], abs=1e-6)
    assert measured > 3 * y.mean()


def test_rows_are_raw_features_of_the_whole_vector(run: Path) -> None:
    with np.load(run / "rows.npz") as rows:
        assert set(rows) == {f"{part}_{kind}" for part in ("train", "valid", "test") for kind in "xy"}
        for part in ("train", "valid", "test"):
            x, y = rows[f"{part}_x"], rows[f"{part}_y"]
            assert (x.dtype, y.dtype) == (np.float32, np.uint8)
            assert x.shape == (len(y), len(PAYMENTS.feature_names))


def test_the_feature_state_at_the_end_of_the_history_is_there(run: Path) -> None:
    store = MemoryStore(PAYMENTS)
    read_snapshot(store, run.parent.parent / "features" / "payments" / "snapshot")
    assert store.count > 300


def test_a_bad_file_ends_in_one_line_that_names_the_fault(tmp_path: Path) -> None:
    bad = {"event_id": [1], "ts": [1], "customer": [1], "terminal": [1], "amount": [-4.0], "label": [0]}
    pl.DataFrame(bad).write_csv(tmp_path / "bad.csv")
    done = training("--data", str(tmp_path / "bad.csv"), state=tmp_path)
    assert done.returncode == 1
    assert "row 1, column amount: got -4.0, wanted a finite number > 0" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_run_is_in_the_folder_of_the_domain_whatever_its_module_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`vigil optimize` looks for it there."""
    table = tmp_path / "tills.csv"
    table.write_text("event_id,ts,till,amount,label\n1,2024-01-01 09:00:00,1,5.0,0\n")
    folders = []
    monkeypatch.setattr(command_line, "_load_keras", lambda: None)
    monkeypatch.setattr(command_line, "_train", lambda history, features, out, *_: folders.append(out) or ())
    monkeypatch.setenv("VIGIL_STATE_DIR", str(tmp_path))
    ran = CliRunner().invoke(command_line.app, ["--domain", "tests.optimize.tills", "--data", str(table)])
    assert ran.exit_code == 0, ran.output
    assert folders == [tmp_path / "training" / "tills"]
