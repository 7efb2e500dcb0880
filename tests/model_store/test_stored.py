from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bentoml
import pytest
from bentoml._internal.models import ModelStore

import model_store
from vigil.domains.spec import Domain
from vigil.errors import NotFound


def test_what_was_saved_is_found_by_alias_and_by_version(store_model: Callable[..., str], domain: Domain) -> None:
    version = store_model(b"bytes of a model")
    by_alias, by_version = model_store.resolve("tills", "champion"), model_store.resolve("tills", version)
    assert by_alias == by_version
    assert by_alias.tag == by_alias.manifest.tag == f"tills:{version}"
    assert by_alias.onnx_path.read_bytes() == b"bytes of a model"
    assert (by_alias.path / "optimization.md").read_text() == "# how it was made\n"
    assert by_alias.manifest.feature_names == domain.feature_names
    assert by_alias.manifest.candidates == ({"name": "fp32 fused", "bytes": 7},)


def test_a_version_is_a_number_of_64_bits_and_later_ones_are_larger(store_model: Callable[..., str]) -> None:
    """NVIDIA's perf_analyzer reads versions so, and aborts on anything else."""
    versions = [int(store_model()) for _ in range(3)]
    assert versions == sorted(set(versions))
    assert versions[-1] < 1 << 63


def test_latest_is_the_one_stored_last_wherever_aliases_point(store_model: Callable[..., str]) -> None:
    store_model(created="2026-01-01T00:00:00Z")
    newer = store_model(created="2026-01-02T00:00:00Z", alias=None)
    assert model_store.resolve("tills", "latest").manifest.version == newer
    assert next(iter(model_store.list_models("tills"))).manifest.version == newer


def test_an_empty_store_names_the_commands_that_make_a_model(home: Path) -> None:
    with pytest.raises(NotFound, match=r"no model 'tills'.*vigil train --domain tills.*vigil optimize"):
        model_store.resolve("tills", "champion")


def test_an_unknown_alias_lists_the_aliases_and_versions_there_are(store_model: Callable[..., str]) -> None:
    version = store_model()
    with pytest.raises(NotFound, match=rf"tills@challenger.*champion -> {version}.*versions: {version}"):
        model_store.resolve("tills", "challenger")


@pytest.mark.parametrize("name", ["..", "tills/..", "", "."])
def test_a_name_from_outside_cannot_leave_the_store(store_model: Callable[..., str], name: str) -> None:
    store_model()
    with pytest.raises(NotFound):
        model_store.resolve(name, "champion")


def test_models_of_others_in_the_store_are_left_alone(store_model: Callable[..., str], home: Path) -> None:
    store_model()
    (home / "models" / "someone_elses" / "v1").mkdir(parents=True)
    assert {model.manifest.domain for model in model_store.list_models()} == {"tills"}


def test_the_command_bentoml_models_list_shows_every_version(store_model: Callable[..., str]) -> None:
    first, second = store_model(b"one"), store_model(b"two")
    listing = subprocess.run(
        [sys.executable, "-m", "bentoml", "models", "list"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert f"tills:{first}" in listing
    assert f"tills:{second}" in listing


def test_bentoml_gets_exports_and_deletes_beside_the_aliases(store_model: Callable[..., str], tmp_path: Path) -> None:
    first, second = store_model(b"one"), store_model(b"two", created="2026-01-02T00:00:00Z")
    theirs = ModelStore(model_store.root())
    assert {model.tag.version for model in bentoml.models.list("tills", _model_store=theirs)} == {first, second}
    digest = model_store.resolve("tills", "champion").manifest.digest
    assert bentoml.models.get(f"tills:{second}", _model_store=theirs).info.metadata["digest"] == digest
    exported = bentoml.models.export_model(f"tills:{first}", str(tmp_path / "out"), _model_store=theirs)
    assert Path(exported).stat().st_size > 0
    bentoml.models.delete(f"tills:{second}", _model_store=theirs)
    with pytest.raises(NotFound, match=f"deleted version {second}"):
        model_store.resolve("tills", "champion")
    assert model_store.rollback("tills") == first
    bentoml.models.delete(f"tills:{first}", _model_store=theirs)
    assert not (model_store.root() / "tills").exists()


def test_a_model_comes_back_from_an_export(
    store_model: Callable[..., str], domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store_model(b"travels")
    exported = bentoml.models.export_model(
        f"tills:{version}", str(tmp_path / "out"), _model_store=ModelStore(model_store.root())
    )
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "elsewhere"))
    model_store.root().mkdir(parents=True)
    bentoml.models.import_model(exported, _model_store=ModelStore(model_store.root()))
    assert model_store.promote("tills", version).onnx_path.read_bytes() == b"travels"
    model_store.verify(model_store.resolve("tills", "champion"), domain)


def test_reading_the_store_imports_neither_bentoml_nor_tensorflow(store_model: Callable[..., str]) -> None:
    store_model()
    code = (
        "import sys, model_store; model_store.resolve('tills');"
        "print(sorted({'bentoml', 'tensorflow', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
