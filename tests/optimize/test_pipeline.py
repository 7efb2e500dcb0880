from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import model_store
from optimize import candidates, pipeline, prune, runs
from optimize.candidates import MEANINGS
from optimize.choice import Budget
from optimize.speed import scorer
from vigil.domains.spec import Domain
from vigil.errors import DataError, ModelRefused, NotFound
from vigil.progress import Steps


@pytest.fixture(scope="module")
def outcome(
    run_folder: Path, domain: Domain, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pipeline.Outcome, model_store.StoredModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("home")))
        made = pipeline.optimize(
            runs.read(run_folder, domain),
            domain,
            Budget(),
            sparsity=0.5,
            alias="champion",
            seed=0,
            created="2026-01-01T00:00:00Z",
            steps=Steps(Console(quiet=True)),
        )
        return made, model_store.resolve(domain.name, "champion")


Outcome = tuple[pipeline.Outcome, model_store.StoredModel]


def test_the_stored_model_gives_the_risks_of_keras(outcome: Outcome, run_folder: Path, domain: Domain) -> None:
    _, stored = outcome
    rows = runs.read(run_folder, domain).test_x
    wanted = keras.models.load_model(run_folder / "model.keras").predict(rows, verbose=0)[:, 0]
    np.testing.assert_allclose(scorer(stored.onnx_path)(rows), wanted, atol=1e-3, rtol=0)


def test_the_winner_is_within_the_budget_and_the_stored_one(outcome: Outcome, domain: Domain) -> None:
    made, stored = outcome
    assert Budget().broken(made.winner) == ""
    assert stored.tag == made.tag
    assert stored.manifest.candidate == made.winner.name
    model_store.verify(stored, domain)


def test_every_candidate_is_measured(outcome: Outcome) -> None:
    made, stored = outcome
    assert made.failures == {}
    assert [row.name for row in made.measured] == list(MEANINGS)
    assert [row["name"] for row in stored.manifest.candidates] == list(MEANINGS)
    assert all(row.size > 0 and min(row.us_1, row.us_32, row.us_256) > 0 for row in made.measured)


def test_a_risk_of_the_served_model_is_the_same_to_the_last_bit_in_any_batch(
    outcome: Outcome, run_folder: Path, domain: Domain
) -> None:
    score = scorer(outcome[1].onnx_path)
    rows = runs.read(run_folder, domain).test_x[:512]
    alone = np.concatenate([score(rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_array_equal(alone, score(rows))


def test_the_manifest_says_how_the_risks_are_spread_on_the_validation_rows(
    outcome: Outcome, run_folder: Path, domain: Domain
) -> None:
    manifest = outcome[1].manifest
    risks = scorer(outcome[1].onnx_path)(runs.read(run_folder, domain).valid_x)
    assert sum(manifest.risk_shares) == pytest.approx(1)
    assert manifest.risk_shares[0] == np.mean(risks < manifest.risk_edges[0])


def test_reports_are_kept_beside_the_model(outcome: Outcome) -> None:
    made, stored = outcome
    assert (stored.path / "report.md").read_text() == "# the training report\n"
    report = (stored.path / "optimization.md").read_text()
    assert f"**{made.winner.name}** is served" in report
    assert all(f"| {name} |" in report for name in MEANINGS)


def test_a_candidate_that_cannot_be_made_is_left_out_with_the_reason(
    run_folder: Path, domain: Domain, tmp_path: Path
) -> None:
    model = keras.models.load_model(run_folder / "model.keras")
    rows = runs.read(run_folder, domain).train_x
    (tmp_path / "fp16.onnx").mkdir()
    paths, failures = candidates.build(model, model, rows, tmp_path, lambda done: None)
    assert list(failures) == ["fp16"]
    assert "fp16.onnx" in failures["fp16"]
    assert set(paths) == set(MEANINGS) - {"fp16"}


def test_pruning_reaches_its_sparsity_and_keeps_the_last_layer(run_folder: Path, domain: Domain) -> None:
    model = keras.models.load_model(run_folder / "model.keras")
    done: list[int] = []
    small = prune.pruned(model, runs.read(run_folder, domain).train_x, 0.75, 0, done.append)
    assert prune.sparsity_of(small) == pytest.approx(0.75, abs=0.01)
    last = [layer for layer in small.layers if isinstance(layer, keras.layers.Dense)][-1]
    assert np.count_nonzero(last.kernel.numpy()) == last.kernel.shape[0]
    assert done == sorted(done)
    assert done


def test_a_run_of_another_feature_spec_is_refused_with_both_hashes(
    run_folder: Path, domain: Domain, tmp_path: Path
) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"spec_hash": "f" * 64}))
    with pytest.raises(ModelRefused, match=f"(?s){'f' * 64}.*{domain.spec_hash}"):
        runs.read(folder, domain)


def test_an_unfinished_run_names_the_command_that_makes_one(domain: Domain, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"run\.json.*vigil train"):
        runs.read(tmp_path, domain)


def test_a_missing_key_is_refused_by_name(run_folder: Path, domain: Domain, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    facts = json.loads((folder / "run.json").read_text())
    del facts["data_to"]
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="data_to"):
        runs.read(folder, domain)


def test_rows_of_another_width_are_refused(run_folder: Path, domain: Domain, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    with np.load(folder / "rows.npz") as stored:
        arrays = dict(stored)
    np.savez(folder / "rows.npz", **(arrays | {"test_x": arrays["test_x"][:, :3]}))
    with pytest.raises(DataError, match=r"test_x: got shape \[3000, 3\], wanted \[n, 7\]"):
        runs.read(folder, domain)


def test_a_model_that_is_none_is_refused_by_name(run_folder: Path, domain: Domain, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    (folder / "model.keras").write_bytes(b"not a model")
    run = runs.read(folder, domain)
    with pytest.raises(ModelRefused, match=r"model\.keras"):
        pipeline.optimize(run, domain, Budget(), 0.5, "champion", 0, "2026-01-01T00:00:00Z", Steps(Console(quiet=True)))


def test_the_command_stores_the_model_and_prints_the_table(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimize.__main__ import app

    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    arguments = ["--domain", "tests.optimize.tills", "--run", str(run_folder), "--alias", "canary", "--sparsity", "0.9"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    stored = model_store.resolve("tills", "canary")
    assert f"stored {stored.tag} ({stored.manifest.candidate}); tills@canary is this model" in result.stdout
    assert all(name in result.stdout for name in MEANINGS)


def test_the_command_reports_a_bad_budget_and_exits_1() -> None:
    from optimize.__main__ import app

    result = CliRunner().invoke(app, ["--budget-ap", "0"])
    assert result.exit_code == 1
    assert "--budget-ap: got 0" in result.stderr
