"""Load by `h2load` over gRPC, and what it measured."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np

from loadtest.wrk import Load
from vigil.errors import Unavailable, VigilError


def h2load(
    address: str,
    method: str,
    message: bytes,
    folder: Path,
    seconds: int,
    connections: int = 64,
    streams: int = 1,
    messages: int = 1,
) -> Load:
    """Calls `method` (`/package.Service/Name`) with `message` from one thread, as fast as it is answered.

    Every connection keeps `streams` calls under way. Answers without a message, as errors are in gRPC, count as errors.

    Args:
        messages: how often a call sends the message; more than one is for bidirectional streams.

    Returns:
        Messages a second; latencies of a whole call.

    Raises:
        Unavailable: where h2load is not installed.
        VigilError: where it failed, with what it said.
    """
    program = shutil.which("h2load")
    if program is None:
        raise Unavailable("h2load is not installed: `apt-get install nghttp2-client`")
    body, log = folder / "message", folder / "calls.log"
    body.write_bytes((struct.pack(">BI", 0, len(message)) + message) * messages)
    log.unlink(missing_ok=True)
    command = [program, "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"--log-file={log}", f"-d{body}"]
    command += ["-Hcontent-type: application/grpc", "-Hte: trailers", f"http://{address}{method}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return parsed(ran.stdout, log, f"{' '.join(command)}: {ran.stderr or ran.stdout}", messages)


def parsed(said: str, log: Path, failure: str, messages: int = 1) -> Load:
    """A run by what h2load said and its log: a line a call, with its start, HTTP status and microseconds.

    Raises:
        VigilError: with `failure`, where that is not the account of a run.
    """
    finished = re.search(r"finished in ([\d.]+)s, ([\d.]+) req/s", said)
    counts = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    if not finished or not counts or not log.exists() or not log.stat().st_size:
        raise VigilError(failure)
    done, _, failed, errored, _ = (int(value) for value in counts.groups())
    took_ms = np.loadtxt(log, usecols=2, ndmin=1) / 1e3
    p50, p99 = np.percentile(took_ms, (50, 99))
    errors = failed + errored + without_message(said, done, messages)
    return Load(float(finished[2]) * messages, float(p50), float(p99), errors)


def without_message(said: str, done: int, messages: int) -> int:
    """All calls, where the answers hold too few bytes to be messages (5 bytes of prefix and more each), else none."""
    data = re.search(r"\((\d+)\) data", said)
    return done if data is None or int(data[1]) <= 5 * done * messages else 0
