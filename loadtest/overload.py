"""More load than a server can take, by `h2load` over HTTP/1.1: every connection asks again at once, refused or not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np

from loadtest.outcome import Outcome, outcome
from vigil.errors import Unavailable, VigilError


def overload(url: str, body: bytes, folder: Path, seconds: int, connections: int) -> Outcome:
    """Posts JSON from one thread, a request under way on each connection.

    Raises:
        Unavailable: where h2load is not installed.
        VigilError: where it failed, with what it said.
    """
    program = shutil.which("h2load")
    if program is None:
        raise Unavailable("h2load is not installed: `apt-get install nghttp2-client`")
    file, log = folder / "overload.body", folder / "overload.log"
    file.write_bytes(body)
    log.unlink(missing_ok=True)
    command = [program, "--h1", "-t1", f"-c{connections}", f"-D{seconds}", f"--log-file={log}", f"-d{file}"]
    ran = subprocess.run([*command, "-Hcontent-type: application/json", url], capture_output=True, text=True)
    if not log.exists() or not log.stat().st_size:
        raise VigilError(f"{' '.join(command)}: {ran.stderr or ran.stdout}")
    # A line a request: start, HTTP status (-1: none), microseconds.
    table = np.loadtxt(log, dtype=np.int64, ndmin=2)
    return outcome(table[:, 1], table[:, 2] / 1e3, seconds)
