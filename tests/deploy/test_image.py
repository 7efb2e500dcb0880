"""The image, locked down as an orchestrator does it, for each platform that `make image` made it for and says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from testbed.served import LOCALHOST, Process, free_port
from tests.conftest import ROOT
from tests.deploy import computed
from tests.serving.calls import call, payment
from vigil.access import keys
from vigil.transports.proto import decisions_pb2, decisions_pb2_grpc

pytestmark = pytest.mark.image

ENGINE, IMAGE = os.environ.get("ENGINE", "podman"), os.environ.get("IMAGE", "")
PLATFORMS = os.environ.get("PLATFORM", "").split(",")
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
# Another processor is emulated, at a tenth of the speed.
WAIT_S = 900.0 if any(PLATFORMS) else 120.0


def engine(*arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs podman or docker."""
    return subprocess.run([ENGINE, *arguments], input=given, capture_output=True, timeout=WAIT_S)


class Image:
    """What was made for one platform, such as `linux/arm64`; "": for this machine's."""

    def __init__(self, platform: str) -> None:
        suffix = f"-{platform.removeprefix('linux/')}" if len(PLATFORMS) > 1 else ""
        self.name, self.bill = IMAGE + suffix, ROOT / f"build/image/sbom{suffix}.cdx.json"
        self.platform = [f"--platform={platform}"] if platform else []

    def run(self, *arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Runs a program of it, locked down."""
        options = [*LOCKED, *(["-i"] if given is not None else [])]
        return engine("run", "--rm", *self.platform, *options, self.name, *arguments, given=given)

    def inspect(self) -> Any:
        """What the engine knows about it."""
        [found] = json.loads(engine("image", "inspect", self.name).stdout)
        return found


@pytest.fixture(scope="module", params=PLATFORMS, ids=lambda platform: platform or "own")
def image(request: pytest.FixtureRequest) -> Image:
    """The image for each platform in turn."""
    return Image(request.param)


class Container(Process):
    """The service in a container, on ports of the loopback interface.

    Args:
        image: what it runs.
        log: file that gets its output.
        more: options of the engine.
        environment: variables for it.
    """

    def __init__(self, image: Image, log: Path, more: Sequence[str] = (), **environment: str) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.name = f"vigil-{self.port}"
        ports = {"BENTOML_PORT": str(self.port), "VIGIL_GRPC_PORT": str(self.grpc_port)}
        hosts = {"BENTOML_HOST": LOCALHOST, "VIGIL_GRPC_HOST": LOCALHOST}
        set_ = [f"--env={key}={value}" for key, value in (ports | hosts | environment).items()]
        options = [*image.platform, "--name", self.name, "--network=host", *LOCKED, *more, *set_]
        super().__init__([ENGINE, "run", "--rm", *options, image.name], log, {}, WAIT_S)

    def ready(self) -> bool:
        try:
            return call(self.port, "GET", "/readyz").status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def service(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with Container(image, tmp_path_factory.mktemp("image") / "log") as container:
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


def test_for_others_than_its_own_machine_it_asks_for_a_key(image: Image, tmp_path: Path) -> None:
    refused = image.run()
    assert refused.returncode != 0
    assert b"others can call, and there are no keys; make one: `vigil keys create" in refused.stdout + refused.stderr
    path = tmp_path / "keys.json"
    _, key = keys.create(path, "me", ["score"])
    path.chmod(0o644)
    told = {"BENTOML_HOST": "0.0.0.0", "VIGIL_GRPC_HOST": "0.0.0.0", "VIGIL_KEYS_FILE": "/keys.json"}
    with Container(image, tmp_path / "log", (f"--volume={path}:/keys.json:ro",), **told) as container:
        assert call(container.port, "POST", "/v1/payments/score", payment("p-1")).status == 401
        scored = call(container.port, "POST", "/v1/payments/score", payment("p-1"), {"X-API-Key": key})
        assert (scored.status, scored.json["tier"]) == (200, "full")


def test_features_are_what_they_are_where_numba_compiles_them(image: Image) -> None:
    tests = (f"--volume={ROOT / 'tests'}:/src/tests:ro", "--env=PYTHONPATH=/src")
    python = ("python", "-m", "tests.deploy.computed")
    done = engine("run", "--rm", *image.platform, *LOCKED, *tests, image.name, *python)
    assert (done.returncode, done.stdout.decode().strip()) == (0, computed.digest()), done.stderr


def test_the_health_check_of_the_image_passes(image: Image, service: Container) -> None:
    done = engine("healthcheck", "run", service.name) if ENGINE == "podman" else healthy_in_docker(image, service)
    assert done.returncode == 0, done.stdout + done.stderr


def healthy_in_docker(image: Image, service: Container) -> subprocess.CompletedProcess[bytes]:
    return engine("exec", service.name, *image.inspect()["Config"]["Healthcheck"]["Test"][1:])


def test_sigterm_ends_it_with_0(image: Image, tmp_path: Path) -> None:
    with Container(image, tmp_path / "log") as container:
        assert container.stop() == 0


def test_the_same_image_works_on_a_stream(image: Image) -> None:
    made = image.run("vigil", "simulate", "--to", "-", "--rate", "0", "--count", str(EVENTS))
    done = image.run("vigil", "stream", "--from", "-", "--to", "-", given=made.stdout)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["tier"] for line in done.stdout.splitlines()] == ["full"] * EVENTS


def test_an_image_is_small(image: Image) -> None:
    assert image.inspect()["Size"] < MOST_BYTES


def test_an_image_holds_neither_what_trains_nor_compiles_nor_tests(image: Image) -> None:
    refused = image.run("vigil", "train")
    assert refused.returncode == 1
    assert b"training is not installed here" in refused.stderr
    packages = ("tensorflow", "llvmlite", "numba", "setuptools", "pip")
    unwanted = ["-name", "tests", *(part for name in packages for part in ("-o", "-path", f"*/site-packages/{name}"))]
    found = image.run("find", "/app", *unwanted)
    assert (found.returncode, found.stdout) == (0, b"")


def test_an_image_runs_as_a_user_without_rights_and_writes_only_its_state(image: Image) -> None:
    assert image.inspect()["Config"]["User"] == "10001:10001"
    writable = ("find", "/", "-xdev", "-type", "d", "-writable", "-not", "-path", "/proc/*", "-not", "-path", "/tmp*")
    found = engine("run", "--rm", *image.platform, image.name, *writable)  # without the lock: nothing of the program's
    assert {*found.stdout.decode().split()} <= {"/state", "/var/tmp", "/run/lock", "/dev/shm"}


def test_the_bill_of_materials_names_all_that_was_installed(image: Image) -> None:
    listed = json.loads(image.bill.read_text())["components"]
    marked = "import json; from packaging import markers; print(json.dumps(markers.default_environment()))"
    environment = json.loads(image.run("python", "-c", marked).stdout)
    lines = re.findall(r"(?m)^[a-z0-9].*==.*?(?= \\$)", (ROOT / "requirements/image.txt").read_text())
    pinned = [Requirement(line) for line in lines]
    here = [each for each in pinned if each.marker is None or each.marker.evaluate(environment)]
    assert {(canonicalize_name(part["name"]), part["version"]) for part in listed} >= {
        (canonicalize_name(each.name), str(each.specifier).removeprefix("==")) for each in here
    }
    assert here
