"""Server processes for as long as a `with` block lasts."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from vigil.errors import VigilError

ROOT = Path(__file__).parent.parent
LOCALHOST = "127.0.0.1"


class NotServed(VigilError):
    """A service that did not come up; the message ends with its log."""


class Process:
    """Runs a command from the repository's root; in the block it is ready.

    Args:
        command: the program and its arguments.
        log: file that gets its output.
        environment: variables for it on top of this process's.
        wait_s: how long coming up may take.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str], wait_s: float = 120.0) -> None:
        self.log = log
        self._command, self._wait_s = command, wait_s
        self._environment = {**os.environ, **environment}

    def ready(self) -> bool:
        """Whether it takes requests."""
        return True

    def __enter__(self) -> Self:
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=out, stderr=subprocess.STDOUT
            )
        until_s = time.monotonic() + self._wait_s
        try:
            while not self.ready():
                if self.process.poll() is not None or time.monotonic() > until_s:
                    raise NotServed(f"{' '.join(self._command)} did not come up:\n{self.log.read_text()}")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, wait_s: float = 30.0) -> int:
        """Asks it to end as a supervisor does; its exit code. What it leaves running is killed."""
        below: list[psutil.Process] = []
        if self.process.poll() is None:
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for left in psutil.wait_procs(below, timeout=5)[1]:
            left.kill()
        return code


class Served(Process):
    """Runs `bentoml serve TARGET` on free ports of the loopback interface.

    Args:
        target: as `bentoml serve` takes it: `.`, or `module:Service`.
        log: file that gets its output.
        environment: variables for it on top of this process's.
        wait_s: how long that may take.
        path: asked until it answers with a `wanted` status.
        arguments: more for `bentoml serve`.
        trust: where these make it speak TLS.
        port: of HTTP; 0: a free one.
        descriptors: most files its processes may each have open; 0: as many as this one.
    """

    def __init__(
        self,
        target: str,
        log: Path,
        environment: dict[str, str],
        wait_s: float = 120.0,
        path: str = "/readyz",
        wanted: tuple[int, ...] = (200,),
        arguments: Sequence[str] = (),
        trust: ssl.SSLContext | None = None,
        port: int = 0,
        descriptors: int = 0,
    ) -> None:
        self.port, self.grpc_port = port or free_port(), free_port()
        self.address, self.grpc_address = f"{LOCALHOST}:{self.port}", f"{LOCALHOST}:{self.grpc_port}"
        self.url = f"{'https' if trust else 'http'}://{self.address}"
        self._path, self._wanted, self._trust = path, wanted, trust
        command = [
            sys.executable,
            "-m",
            "bentoml",
            "serve",
            target,
            "--host",
            LOCALHOST,
            "--port",
            str(self.port),
            *arguments,
        ]
        if descriptors:
            command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
        ours = {"VIGIL_GRPC_PORT": str(self.grpc_port), "BENTOML_DO_NOT_TRACK": "True"}
        super().__init__(command, log, {**ours, **environment}, wait_s)

    def ready(self) -> bool:
        return self._status() in self._wanted

    def _status(self) -> int:
        try:
            with urllib.request.urlopen(self.url + self._path, timeout=5, context=self._trust) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as failure:
            return failure.code
        except OSError:
            return 0


def free_port() -> int:
    """A port of the loopback interface that nothing listens on, given to no other process while this one lives.

    Not one of those that the system gives by itself: BentoML takes some of these before it takes this one.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        if not _reserved(port):
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOCALHOST, port))
            return port


_RESERVATIONS = Path("/tmp/vigil-ports")  # of all users, whatever their TMPDIR
_ours: set[int] = set()


@cache
def _reservations() -> int:
    """A file of all processes of this machine: who was given port N has locked its byte N. Locks end with a process,
    however that ends."""
    while True:
        with suppress(FileNotFoundError):
            return os.open(_RESERVATIONS, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        made, name = tempfile.mkstemp(dir=_RESERVATIONS.parent)
        os.fchmod(made, 0o666)  # for every user, before any of them can see it
        os.close(made)
        with suppress(FileExistsError):
            os.link(name, _RESERVATIONS)
        os.unlink(name)


def _reserved(port: int) -> bool:
    if port in _ours:  # a process does not lock itself out
        return False
    file = _reservations()
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _ours.add(port)
    return True
