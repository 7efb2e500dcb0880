"""Load by `wrk`, and what it measured."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vigil.errors import Unavailable, VigilError

SCRIPT = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """One run: requests a second, latencies in milliseconds, requests that failed."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


def wrk(url: str, body: str, folder: Path, seconds: int, connections: int = 64) -> Load:
    """Posts `body` to `url` over `connections` kept connections from one thread, as fast as they are answered.

    Raises:
        Unavailable: where wrk is not installed.
        VigilError: where it failed, with what it said.
    """
    program = shutil.which("wrk")
    if program is None:
        raise Unavailable("wrk is not installed: `apt-get install wrk` (or build it from github.com/wg/wrk)")
    script = folder / "load.lua"
    script.write_text(SCRIPT.replace("{body}", body))
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", ran.stdout)
    if not found:
        raise VigilError(f"{' '.join(command)}: {ran.stderr or ran.stdout}")
    requests, duration_us, p50_us, p99_us, errors = (float(value) for value in found.groups())
    return Load(requests / (duration_us / 1e6), p50_us / 1e3, p99_us / 1e3, int(errors))
