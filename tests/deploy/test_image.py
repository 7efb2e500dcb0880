"""The image, locked down as an orchestrator does it. `make image` makes it and says what it is called."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadtest.served import LOCALHOST, Process, free_port
from tests.conftest import ROOT
from tests.deploy import computed
from tests.serving.calls import call, payment
from vigil.transports.proto import decisions_pb2, decisions_pb2_grpc

pytestmark = pytest.mark.image

ENGINE, IMAGE = os.environ.get("ENGINE", "podman"), os.environ.get("IMAGE", "")
LOCKED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--volume=/state",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=512m",
)
EVENTS = 200
MOST_BYTES = 400_000_000


def engine(*arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs podman or docker."""
    return subprocess.run([ENGINE, *arguments], input=given, capture_output=True, timeout=120)


class Container(Process):
    """The service in a container, on ports of the loopback interface.

    Args:
        log: file that gets its output.
        environment: variables for it.
    """

    def __init__(self, log: Path, **environment: str) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.name = f"vigil-{self.port}"
        ports = {"BENTOML_PORT": str(self.port), "VIGIL_GRPC_PORT": str(self.grpc_port)}
        hosts = {"BENTOML_HOST": LOCALHOST, "VIGIL_GRPC_HOST": LOCALHOST}
        set_ = [f"--env={key}={value}" for key, value in (ports | hosts | environment).items()]
        super().__init__([ENGINE, "run", "--rm", "--name", self.name, "--network=host", *LOCKED, *set_, IMAGE], log, {})

    def ready(self) -> bool:
        try:
            return call(self.port, "GET", "/readyz").status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with Container(tmp_path_factory.mktemp("image") / "log") as container:
        yield container


def score_over_grpc(port: int, event_id: str) -> Any:
    with grpc.insecure_channel(f"{LOCALHOST}:{port}") as channel:
        stub: Any = decisions_pb2_grpc.DecisionsStub(channel)
        event = decisions_pb2.Event(
            event_id=event_id,
            ts_ms=1_538_308_800_000,
            entities={"customer": "C1", "terminal": "T1"},
            numbers={"amount": 31.5},
        )
        [decision] = stub.Score(decisions_pb2.ScoreRequest(domain="payments", events=[event]), timeout=10).decisions
        return decision


def test_a_locked_down_service_scores_over_http_and_grpc_alike(service: Container) -> None:
    answer = call(service.port, "POST", "/v1/payments/score", payment("p-1")).json
    assert answer["tier"] == "full"
    again = score_over_grpc(service.grpc_port, "p-1")  # the same event: the same features and risk
    assert again.tier == "full"
    assert again.risk == pytest.approx(answer["risk"], abs=1e-4)


def test_features_are_what_they_are_where_numba_compiles_them() -> None:
    tests = (f"--volume={ROOT / 'tests'}:/src/tests:ro", "--env=PYTHONPATH=/src")
    done = engine("run", "--rm", *LOCKED, *tests, IMAGE, "python", "-m", "tests.deploy.computed")
    assert (done.returncode, done.stdout.decode().strip()) == (0, computed.digest()), done.stderr


def test_the_health_check_of_the_image_passes(service: Container) -> None:
    done = engine("healthcheck", "run", service.name) if ENGINE == "podman" else healthy_in_docker(service)
    assert done.returncode == 0, done.stdout + done.stderr


def healthy_in_docker(service: Container) -> subprocess.CompletedProcess[bytes]:
    [image] = json.loads(engine("image", "inspect", IMAGE).stdout)
    return engine("exec", service.name, *image["Config"]["Healthcheck"]["Test"][1:])


def test_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    with Container(tmp_path / "log") as container:
        assert container.stop() == 0


def test_the_same_image_works_on_a_stream() -> None:
    simulate = ("vigil", "simulate", "--to", "-", "--rate", "0", "--count", str(EVENTS))
    made = engine("run", "--rm", *LOCKED, IMAGE, *simulate)
    stream = ("vigil", "stream", "--from", "-", "--to", "-")
    done = engine("run", "--rm", "-i", *LOCKED, IMAGE, *stream, given=made.stdout)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["tier"] for line in done.stdout.splitlines()] == ["full"] * EVENTS


def test_an_image_is_small() -> None:
    [image] = json.loads(engine("image", "inspect", IMAGE).stdout)
    assert image["Size"] < MOST_BYTES


def test_an_image_holds_neither_what_trains_nor_compiles_nor_tests() -> None:
    refused = engine("run", "--rm", *LOCKED, IMAGE, "vigil", "train")
    assert refused.returncode == 1
    assert b"training is not installed here" in refused.stderr
    packages = ("tensorflow", "llvmlite", "numba", "setuptools", "pip")
    unwanted = ["-name", "tests", *(part for name in packages for part in ("-o", "-path", f"*/site-packages/{name}"))]
    found = engine("run", "--rm", *LOCKED, IMAGE, "find", "/app", *unwanted)
    assert (found.returncode, found.stdout) == (0, b"")


def test_an_image_runs_as_a_user_without_rights_and_writes_only_its_state() -> None:
    [image] = json.loads(engine("image", "inspect", IMAGE).stdout)
    assert image["Config"]["User"] == "10001:10001"
    writable = ("find", "/", "-xdev", "-type", "d", "-writable", "-not", "-path", "/proc/*", "-not", "-path", "/tmp*")
    found = engine("run", "--rm", IMAGE, *writable)  # without the lock: nothing of the program's
    assert {*found.stdout.decode().split()} <= {"/state", "/var/tmp", "/run/lock", "/dev/shm"}


def test_the_bill_of_materials_names_all_that_was_installed() -> None:
    listed = json.loads((ROOT / "build/image/sbom.cdx.json").read_text())
    named = {(part["name"].lower().replace("_", "-"), part["version"]) for part in listed["components"]}
    pinned = re.findall(r"(?m)^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", (ROOT / "requirements/image.txt").read_text())
    assert set(pinned) <= {(name.replace(".", "-"), version) for name, version in named} | named
