"""A `bentoml serve` process for as long as a `with` block lasts."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vigil.errors import VigilError

ROOT = Path(__file__).parent.parent
LOCALHOST = "127.0.0.1"


class NotServed(VigilError):
    """A service that did not come up; the message ends with its log."""


class Served:
    """Runs `bentoml serve TARGET` from the repository's root on free ports of the loopback interface.

    Args:
        target: as `bentoml serve` takes it: `.`, or `module:Service`.
        log: file that gets its output.
        environment: variables for it on top of this process's.
        wait_s: how long that may take.
        path: asked until it answers with a `wanted` status.
        arguments: more for `bentoml serve`.
        trust: where these make it speak TLS.
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
    ) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.address, self.grpc_address = f"{LOCALHOST}:{self.port}", f"{LOCALHOST}:{self.grpc_port}"
        self.url = f"{'https' if trust else 'http'}://{self.address}"
        self.log = log
        self._target, self._wait_s, self._path, self._wanted = target, wait_s, path, wanted
        self._arguments, self._trust = arguments, trust
        ours = {"VIGIL_GRPC_PORT": str(self.grpc_port), "BENTOML_DO_NOT_TRACK": "True"}
        self._environment = {**os.environ, **ours, **environment}

    def __enter__(self) -> Self:
        command = [
            sys.executable,
            "-m",
            "bentoml",
            "serve",
            self._target,
            "--host",
            LOCALHOST,
            "--port",
            str(self.port),
            *self._arguments,
        ]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=out, stderr=subprocess.STDOUT
            )
        until_s = time.monotonic() + self._wait_s
        while self._status() not in self._wanted:
            if self.process.poll() is not None or time.monotonic() > until_s:
                self.stop()
                raise NotServed(f"{' '.join(command)} did not come up:\n{self.log.read_text()}")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, wait_s: float = 30.0) -> int:
        """Asks it to end as a supervisor does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _status(self) -> int:
        try:
            with urllib.request.urlopen(self.url + self._path, timeout=5, context=self._trust) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as failure:
            return failure.code
        except OSError:
            return 0


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])
