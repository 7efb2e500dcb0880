"""What the verbs of make need of a machine, looked at before anything is installed, trained or built: a line for each
thing that is missing, with what to do. Needs Python alone.

    python requirements/preflight.py VERB...

FORCE=1: no look. PORT, GRPC_PORT: where the verbs that serve will listen.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CONTAINERD = "apt-get install containerd runc containernetworking-plugins iptables conntrack"
Look = Callable[[str], Iterator[str]]


def ports(verb: str) -> Iterator[str]:
    """Both ports of the service, on the loopback interface."""
    wanted = {name: os.environ.get(name, str(default)) for name, default in (("PORT", 3000), ("GRPC_PORT", 3001))}
    if len({*wanted.values()}) == 1:
        yield f"PORT and GRPC_PORT are both {wanted['PORT']}: choose two, make {verb} PORT=3100"
        return
    for name, text in wanted.items():
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
            yield f"{name}={text}: wanted a port, 1 to 65535"
            continue
        instead = f"make {verb} {name}={_free(int(text), {*wanted.values()})}"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(text)))
            except PermissionError:
                yield f"{name}={text}: this user may not listen there: {instead}"
            except OSError as failure:
                yield f"port {text} is in use ({failure.strerror}): stop what listens there, or {instead}"


def disk(gb: float) -> Look:
    """Free space for the checkout."""

    def look(verb: str) -> Iterator[str]:
        free = shutil.disk_usage(ROOT).free / 1e9
        if free < gb:
            yield f"{ROOT} has {free:.1f} GB free, make {verb} needs {gb:g}: make room"

    return look


def memory(gb: float) -> Look:
    """Memory that can be had, by the system and by the limit of this process's group."""

    def look(verb: str) -> Iterator[str]:
        available = [size for size in (_available_gb(), _limit_gb()) if size is not None]
        if available and min(available) < gb:
            yield f"{min(available):.1f} GB of memory can be had, make {verb} needs {gb:g}: end other programs"

    return look


def training(verb: str) -> Iterator[str]:
    """Memory for the history of the demo and what learns from it, where no model is there yet; measured, in GB: 3.5 for
    half a year of 5,000 customers, 0.9 for next to nothing."""
    if verb != "demo" and os.path.exists(_models() / "payments"):
        return
    shares = (_number("DEMO_DAYS", 183) / 183, _number("DEMO_CUSTOMERS", 5000) / 5000)
    yield from memory(round(0.9 + 2.6 * shares[0] * shares[1], 1))(verb)


def stores(verb: str) -> Iterator[str]:
    """Folders that are written to: the checkout, and where models are kept."""
    for folder, remedy in (
        (ROOT, "use a copy of your own"),
        (_models(), "name another place by BENTOML_HOME"),
    ):
        there = next(each for each in (folder, *folder.parents) if os.path.exists(each))
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as failure:
            yield f"{folder} cannot be written ({failure.strerror}): {remedy}"


def state(verb: str) -> Iterator[str]:
    """Feature state that no other process holds, as `vigil/features/memory/lock.py` locks it."""
    place = Path(os.environ.get("VIGIL_STATE_DIR") or ROOT / "state")
    for lock in sorted(place.glob("features/*/lock")):
        with suppress(OSError), lock.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield f"{lock.parent} is in use by another process: stop that one, or make {verb} VIGIL_STATE_DIR=..."


def programs(remedy: str, *names: str) -> Look:
    """Programs on PATH."""

    def look(verb: str) -> Iterator[str]:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        if absent := [name for name in names if shutil.which(name, path=path) is None]:
            yield f"make {verb} needs {', '.join(absent)}: {remedy}"

    return look


def engine(verb: str) -> Iterator[str]:
    """What builds images, and answers."""
    if os.environ.get("BASE") == "debian":
        yield from root(verb)
        yield from programs("BASE=debian is for Debian: leave it out", "apt-get")(verb)
        return
    name = os.environ.get("ENGINE") or "docker"
    missing = [*programs("install podman or docker, or on Debian, as root: make image BASE=debian", name)(verb)]
    yield from missing
    if not missing and (said := _fails([name, "info"])):
        yield f"{name} does not answer ({said}): start it, or on Debian, as root: make image BASE=debian"


def root(verb: str) -> Iterator[str]:
    """The superuser."""
    if os.geteuid():
        yield f"make {verb} needs root here: it makes namespaces and mounts"


def cluster(verb: str) -> Iterator[str]:
    """A Kubernetes: the one that KUBECONFIG names, or what one is made of."""
    if os.environ.get("KUBECONFIG"):
        if not os.environ.get("IMAGE"):
            yield "IMAGE=registry/name:tag is missing: what the cluster at KUBECONFIG is to run"
        return
    if not (ROOT / "build/image/image.tar").exists():
        yield "build/image/image.tar is missing: make image"
    yield from programs("it builds a Kubernetes; or name a cluster by KUBECONFIG", "go")(verb)
    yield from root(verb)
    if os.environ.get("CI") != "true":  # there tests/cluster/run installs them
        yield from programs(CONTAINERD, "containerd", "ctr", "runc", "iptables", "conntrack")(verb)
    if _fails(["pgrep", "-x", "kubelet"]) is None:
        yield "a kubelet runs on this machine, and two would end each other's pods: name its cluster by KUBECONFIG"


def peers(verb: str) -> Iterator[str]:
    """The load generators."""
    yield from programs("apt-get install wrk nghttp2-client", "wrk", "h2load")(verb)


def kafka(verb: str) -> Iterator[str]:
    """What a broker of one's own runs on."""
    yield from programs("apt-get install default-jre-headless", "java")(verb)
    if not (ROOT / "build/kafka/complete").exists():
        yield from programs("apt-get install maven", "mvn")(verb)


INSTALLED_GB, MADE_GB = 3.5, 0.5
"""Disk for `.venv`; for history, model and state of the demo."""

NEEDS: dict[str, tuple[Look, ...]] = {
    "demo": (ports, state, training, disk(MADE_GB), stores),
    "run": (ports, state, training, disk(MADE_GB), stores),
    "model": (training, disk(MADE_GB), stores),
    "load": (training, disk(MADE_GB), stores),
    "limits": (training, disk(MADE_GB), stores),
    "bench": (peers, training, disk(4.0), stores),
    "bench-stream": (kafka, memory(4.0), disk(2.0), stores),
    "kafka": (kafka, disk(1.0)),
    "image": (engine, disk(4.0), stores),
    "chart-live": (cluster, disk(8.0)),
}


def missing(verbs: list[str]) -> list[str]:
    """A line for each thing that these verbs need and that is not here."""
    needs = [(verb, look) for verb in verbs for look in NEEDS.get(verb, ())]
    if not (ROOT / ".venv" / "ready").exists():
        needs.append(("setup", disk(INSTALLED_GB)))
    return [*dict.fromkeys(line for verb, look in needs for line in look(verb))]


def _models() -> Path:
    return Path(os.environ.get("BENTOML_HOME") or os.path.expanduser("~/bentoml")) / "models"


def _number(name: str, default: int) -> float:
    try:
        return float(os.environ[name])
    except (KeyError, ValueError):  # what is no number is refused by what takes it
        return default


def _free(port: int, taken: set[str]) -> int:
    for candidate in range(port + 100 if 1024 <= port < 65_000 else 3100, 65_536):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            if str(candidate) not in taken:
                return candidate
    return 0


def _available_gb() -> float | None:
    try:
        lines = MEMINFO.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _limit_gb() -> float | None:
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no limit, or no such groups
        return None
    return (limit - used) / 1e9


def _fails(command: list[str]) -> str | None:
    """What a command says last where it fails; None where it does not."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    if ran.returncode == 0:
        return None
    return (ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"])[-1]


def main() -> int:
    """Says what is missing."""
    if os.environ.get("FORCE") == "1":
        return 0
    lines = missing(sys.argv[1:])
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
