"""What `bentoml build` puts into a bento, and what its image is made by."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import model_store
from testbed import tiny_model
from tests.conftest import ROOT
from vigil import domains

PAYMENTS = domains.load("payments")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two models, the older one of which serves."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder))
        for seed in (0, 1):
            tiny_model.store(folder, PAYMENTS, seed)
        model_store.rollback("payments")
    return folder


@pytest.fixture(scope="module")
def bento(home: Path) -> Path:
    """A bento as `bentoml build` makes it."""
    environment = os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "build", "--version", "one"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    return home / "bentos" / "vigil" / "one"


def test_a_bento_holds_what_serves_and_nothing_else(bento: Path) -> None:
    shipped = {path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*") if path.is_file()}
    code = {f"{path.relative_to(ROOT)}" for top in ("vigil", "model_store") for path in (ROOT / top).rglob("*.py")}
    beside = {
        "service.py",
        "bentofile.yaml",
        "vigil/transports/proto/decisions.proto",
        "requirements/image.txt",
        "requirements/kernel.txt",
        "requirements/sbom.txt",
    }
    assert shipped == code | beside


def test_a_bento_brings_the_model_that_the_alias_means(
    bento: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(home))
    [service] = yaml.safe_load((bento / "bento.yaml").read_text())["services"]
    assert [model["tag"] for model in service["models"]] == [model_store.resolve("payments").tag]


def test_the_dockerfile_of_a_bento_is_the_one_of_the_repository(bento: Path) -> None:
    assert (bento / "env/docker/Dockerfile").read_text().strip() == (ROOT / "deploy/Dockerfile").read_text().strip()


@pytest.mark.parametrize("name", ["image", "kernel", "sbom"])
def test_what_an_image_installs_is_pinned_with_hashes(name: str) -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", (ROOT / f"requirements/{name}.txt").read_text()))
    assert all(re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+ .*--hash=sha256:", entry, re.S) for entry in entries if entry)


def test_an_image_installs_nothing_that_trains_or_compiles() -> None:
    names = set(re.findall(r"(?m)^([a-z0-9._-]+)==", (ROOT / "requirements/image.txt").read_text()))
    assert {"bentoml", "onnxruntime", "confluent-kafka", "opentelemetry-exporter-otlp-proto-http"} <= names
    assert not {"tensorflow", "tensorflow-cpu", "keras", "onnx", "scikit-learn", "polars", "pandas"} & names
    assert not {"numba", "llvmlite", "setuptools"} & names


@pytest.mark.parametrize("name", ["Dockerfile", "load.Dockerfile"])
def test_the_dockerfiles_pass_hadolint(name: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "deploy" / name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_load_image_needs_no_more_of_the_checkout_than_it_copies() -> None:
    copied = re.findall(r"^COPY (\w+) /app/load/", (ROOT / "deploy" / "load.Dockerfile").read_text(), re.MULTILINE)
    absent = {"testbed", "training", "optimize", "monitoring", "tests"} - set(copied)
    script = f"import sys; sys.modules.update(dict.fromkeys({sorted(absent)})); import loadtest.locustfile"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
