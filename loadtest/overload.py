"""More load than a server can take: what is still answered well, what is refused, and how long each waits."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil.errors import Unavailable, VigilError

OK, REFUSED = 200, 429


@dataclass(frozen=True)
class Outcome:
    """One run: requests a second by what became of them, and the p99 in milliseconds of those answered well."""

    offered_per_s: float
    good_per_s: float
    refused_per_s: float
    failed_per_s: float
    good_p99_ms: float


def overload(
    url: str, body: bytes, folder: Path, seconds: int, connections: int, rate_per_s: float | None = None
) -> Outcome:
    """Posts JSON over HTTP/1.1 by h2load, at a rate of arrivals (spread evenly over the connections) or flat out.

    Raises:
        Unavailable, VigilError: as :func:`timed`.
    """
    options = ["--h1", f"-c{connections}", "-Hcontent-type: application/json"]
    if rate_per_s is not None:
        options.append(f"--rps={rate_per_s / connections:.3f}")
    return outcome(timed(url, body, folder, seconds, options)[0], seconds)


def timed(url: str, body: bytes, folder: Path, seconds: int, options: list[str]) -> tuple[npt.NDArray[np.int64], str]:
    """A run of h2load in one thread: its log as :func:`outcome` takes it, and what it said.

    Raises:
        Unavailable: where h2load is not installed.
        VigilError: where it failed, with what it said.
    """
    program = shutil.which("h2load")
    if program is None:
        raise Unavailable("h2load is not installed: `apt-get install nghttp2-client`")
    file, log = folder / "h2load.body", folder / "h2load.log"
    file.write_bytes(body)
    log.unlink(missing_ok=True)
    command = [program, "-t1", f"-D{seconds}", f"--log-file={log}", f"-d{file}", *options, url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if not log.exists() or not log.stat().st_size:
        raise VigilError(f"{' '.join(command)}: {ran.stderr or ran.stdout}")
    return np.loadtxt(log, dtype=np.int64, ndmin=2), ran.stdout


def outcome(log: npt.NDArray[np.int64], seconds: float) -> Outcome:
    """A run by h2load's log, a row a request: start, HTTP status (-1: none), microseconds."""
    status, took_us = log[:, 1], log[:, 2]
    good, refused = status == OK, status == REFUSED
    p99 = float(np.percentile(took_us[good], 99)) / 1e3 if good.any() else float("inf")
    others = len(log) - int(good.sum()) - int(refused.sum())
    return Outcome(len(log) / seconds, good.sum() / seconds, refused.sum() / seconds, others / seconds, p99)
