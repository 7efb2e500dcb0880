"""What make looks at before it installs, trains or builds: one line for each thing that is missing, with what to do."""

from __future__ import annotations

import fcntl
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.served import free_port
from tests.conftest import ROOT

SCRIPT = ROOT / "requirements" / "preflight.py"
CONTAINERD = "apt-get install containerd runc containernetworking-plugins iptables conntrack"


class Machine:
    """The script, with parts of the machine replaced."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names = runpy.run_path(str(SCRIPT), run_name="preflight")
        self._globals: dict[str, Any] = self.names["missing"].__globals__
        for name in ("KUBECONFIG", "IMAGE", "BASE", "ENGINE", "CI", "DEMO_DAYS", "DEMO_CUSTOMERS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (("PORT", free_port()), ("GRPC_PORT", free_port()), ("BENTOML_HOME", home)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("VIGIL_STATE_DIR", str(home / "state"))
        self.let("ROOT", home)
        (home / ".venv").mkdir()
        (home / ".venv" / "ready").touch()

    def let(self, name: str, value: object) -> None:
        """Has the script find this under a name of its own."""
        self._globals[name] = value

    def missing(self, *verbs: str) -> list[str]:
        found: list[str] = self.names["missing"](list(verbs))
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", free_port()))
        stranger.listen()
        yield stranger.getsockname()[1]


@pytest.mark.parametrize("verb", ["demo", "run"])
@pytest.mark.parametrize("name", ["PORT", "GRPC_PORT"])
def test_a_port_that_a_stranger_has_is_named_with_another_that_is_free(
    machine: Machine, taken: int, verb: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.missing(verb) == []
    monkeypatch.setenv(name, str(taken))
    [line] = machine.missing(verb)
    assert line.startswith(
        f"port {taken} is in use (Address already in use): stop what listens there, or make {verb} {name}="
    )
    monkeypatch.setenv(name, line.rpartition("=")[2])
    assert machine.missing(verb) == []


@pytest.mark.parametrize("text", ["", "abc", "0", "-1", "65536", "3000 3001", "٣٠٠٠", "3000.0", "1e3"])
def test_what_is_no_port_is_refused(machine: Machine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", text)
    assert machine.missing("run") == [f"PORT={text}: wanted a port, 1 to 65535"]


def test_two_ports_are_two(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_PORT", os.environ["PORT"])
    [line] = machine.missing("demo")
    assert line.startswith("PORT and GRPC_PORT are both ")


def test_a_full_disk_is_said_before_anything_is_written(machine: Machine, tmp_path: Path) -> None:
    class Full:
        @staticmethod
        def disk_usage(_: Path) -> Any:
            return type("Usage", (), {"free": 100_000_000})

    machine.let("shutil", Full)
    assert machine.missing("demo") == [f"{tmp_path} has 0.1 GB free, make demo needs 0.5: make room"]
    (tmp_path / ".venv" / "ready").unlink()
    assert machine.missing("check") == [f"{tmp_path} has 0.1 GB free, make setup needs 3.5: make room"]


def meminfo(folder: Path, available_kb: int) -> Path:
    (folder / "meminfo").write_text(f"MemTotal: 24000000 kB\nMemAvailable: {available_kb} kB\n")
    return folder / "meminfo"


def test_too_little_memory_is_said_by_the_size_of_the_demo(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.let("MEMINFO", meminfo(tmp_path, 2_000_000))
    machine.let("CGROUP", tmp_path)
    assert machine.missing("demo") == ["2.0 GB of memory can be had, make demo needs 3.5: end other programs"]
    monkeypatch.setenv("DEMO_DAYS", "60")
    assert machine.missing("demo") == []
    (tmp_path / "memory.max").write_text("1500000000\n")
    (tmp_path / "memory.current").write_text("900000000\n")
    assert machine.missing("demo") == ["0.6 GB of memory can be had, make demo needs 1.8: end other programs"]
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.missing("demo") == []


def test_a_model_that_is_there_needs_no_memory_for_training(machine: Machine, tmp_path: Path) -> None:
    machine.let("MEMINFO", meminfo(tmp_path, 500_000))
    assert machine.missing("run")
    (tmp_path / "models" / "payments").mkdir(parents=True)
    assert machine.missing("run") == []


def test_a_system_that_does_not_tell_its_memory_is_trusted(machine: Machine, tmp_path: Path) -> None:
    machine.let("MEMINFO", tmp_path / "none")
    machine.let("CGROUP", tmp_path / "none")
    assert machine.missing("demo", "run", "load") == []


def test_a_home_that_cannot_be_written_is_said_first(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", "/proc/none")
    [line] = machine.missing("model")
    assert line.startswith("/proc/none/models cannot be written (")
    assert line.endswith("): name another place by BENTOML_HOME")


def test_a_home_that_may_not_even_be_looked_into_is_a_line(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `sudo -u`, which leaves HOME as it was."""
    monkeypatch.delenv("BENTOML_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "another's"))
    stat = os.stat

    def refuses(path: Any, *more: Any, **named: Any) -> os.stat_result:
        if "another's" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *more, **named)

    monkeypatch.setattr(os, "stat", refuses)
    assert machine.missing("run") == []


def test_state_that_a_running_service_holds_is_said_first(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "features" / "payments"
    folder.mkdir(parents=True)
    with (folder / "lock").open("ab") as held:
        assert machine.missing("run") == []
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert machine.missing("run") == [
            f"{folder} is in use by another process: stop that one, or make run VIGIL_STATE_DIR=..."
        ]


@pytest.mark.parametrize(
    ("verb", "named"),
    [
        ("bench", "make bench needs wrk, h2load: apt-get install wrk nghttp2-client"),
        ("kafka", "make kafka needs java: apt-get install default-jre-headless"),
        ("kafka", "make kafka needs mvn: apt-get install maven"),
        ("image", "make image needs docker: install podman or docker, or on Debian, as root: make image BASE=debian"),
        ("chart-live", "build/image/image.tar is missing: make image"),
        ("chart-live", "make chart-live needs go: it builds a Kubernetes; or name a cluster by KUBECONFIG"),
        ("chart-live", f"make chart-live needs containerd, ctr, runc, iptables, conntrack: {CONTAINERD}"),
    ],
)
def test_what_a_verb_builds_with_is_looked_for_before_it_builds(machine: Machine, verb: str, named: str) -> None:
    class Bare:
        disk_usage = staticmethod(lambda _: type("Usage", (), {"free": 10**12}))
        which = staticmethod(lambda *_, **__: None)

    machine.let("shutil", Bare)
    assert named in machine.missing(verb)


def test_a_cluster_of_ones_own_needs_the_name_of_an_image(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/none")
    assert machine.missing("chart-live") == [
        "IMAGE=registry/name:tag is missing: what the cluster at KUBECONFIG is to run"
    ]
    monkeypatch.setenv("IMAGE", "registry.example.org/vigil:1")
    assert machine.missing("chart-live") == []


def test_an_engine_that_does_not_answer_is_said_with_its_words(machine: Machine, tmp_path: Path) -> None:
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    engine.chmod(0o755)
    machine.let("_models", lambda: tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert machine.missing("image") == [
            "docker does not answer (Cannot connect to the Docker daemon): start it, or on Debian, as root: "
            "make image BASE=debian"
        ]


def test_a_person_may_insist() -> None:
    environment = {**os.environ, "PORT": "none", "GRPC_PORT": "none2"}
    command = [sys.executable, str(SCRIPT), "run"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines()[0] == "PORT=none: wanted a port, 1 to 65535"
    assert subprocess.run(command, env={**environment, "FORCE": "1"}, check=False).returncode == 0


def fake(folder: Path, name: str, answer: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def setup(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs requirements/environment with nothing on PATH but what a test lays there, until a Python is chosen."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sed", "cat", "dirname", "rm"):
        (programs / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")

    def run(**pythons: str) -> tuple[int, str]:
        named = pythons.pop("PYTHON", "")
        for name, answer in pythons.items():
            fake(programs, name.replace("_", "."), answer)
        ran = subprocess.run(
            [ROOT / "requirements" / "environment", str(tmp_path / "venv"), "setup"],
            env={"PATH": str(programs), "PYTHON": named},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stderr.strip()

    return run


TELLS = 'case "$*" in *ensurepip*) exit {venv};; "-m venv"*) echo "$0" >&2; exit 9;; *) exit {fits};; esac'


def test_the_newest_python_that_fits_is_taken(setup: Callable[..., tuple[int, str]]) -> None:
    code, said = setup(python3_12=TELLS.format(fits=0, venv=0), python3_11=TELLS.format(fits=0, venv=0))
    assert code == 1
    assert said.endswith("python3.12")


def test_a_shim_that_does_not_run_and_a_python_without_venv_are_passed_over(
    setup: Callable[..., tuple[int, str]],
) -> None:
    _, said = setup(
        python3_13="exit 127", python3_12=TELLS.format(fits=0, venv=1), python3=TELLS.format(fits=0, venv=0)
    )
    assert said.endswith("bin/python3")


def test_where_no_python_fits_it_is_said_what_to_install(setup: Callable[..., tuple[int, str]]) -> None:
    code, said = setup(python3=TELLS.format(fits=1, venv=0))
    assert (code, len(said.splitlines())) == (1, 1)
    assert said.startswith("no Python 3.11 to 3.13 is here: install one (")
    _, said = setup(python3=TELLS.format(fits=0, venv=1))
    assert said == "python3 has no venv: install it (Debian, Ubuntu: apt-get install python3-venv), or uv"
    _, said = setup(PYTHON="/none/python")
    assert said == "PYTHON=/none/python: wanted a CPython 3.11 to 3.13 of 64 bits"


def test_a_python_that_cannot_be_leaves_the_environment_that_is_there(
    setup: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "kept").touch()
    for given in ({"PYTHON": "/none/python"}, {"python3": TELLS.format(fits=0, venv=1)}):
        assert setup(**given)[0] == 1
        assert (tmp_path / "venv" / "kept").exists()


def test_uv_brings_a_python_where_there_is_none(setup: Callable[..., tuple[int, str]]) -> None:
    code, said = setup(uv='echo "uv $*" >&2; exit 1')
    assert code == 1
    assert "--managed-python --python 3.13" in said
