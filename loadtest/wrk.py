"""Load by `wrk`, and what it measured."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vigil.errors import Unavailable, VigilError

# The body of a request: the file's, or what `body()` of the given Lua makes anew for each.
SCRIPT = """
wrk.method = "POST"
{headers}
local file = assert(io.open("{file}", "rb"))
wrk.body = file:read("*a")
file:close()
{lua}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Load:
    """One run: requests a second, latencies in milliseconds, requests that failed."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


def wrk(
    url: str,
    body: str | bytes,
    folder: Path,
    seconds: int,
    connections: int = 64,
    headers: dict[str, str] = JSON,
    lua: str = "",
) -> Load:
    """Posts `body` to `url` over `connections` kept connections from one thread, as fast as they are answered.

    Args:
        lua: added to wrk's script, such as a `request` function that makes each body anew.

    Raises:
        Unavailable: where wrk is not installed.
        VigilError: where it failed, with what it said.
    """
    program = shutil.which("wrk")
    if program is None:
        raise Unavailable("wrk is not installed: `apt-get install wrk` (or build it from github.com/wg/wrk)")
    file, script = folder / "load.body", folder / "load.lua"
    file.write_bytes(body.encode() if isinstance(body, str) else body)
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(SCRIPT.replace("{headers}", lines).replace("{file}", str(file)).replace("{lua}", lua))
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return parsed(ran.stdout, f"{' '.join(command)}: {ran.stderr or ran.stdout}")


def parsed(said: str, failure: str) -> Load:
    """A run by what wrk said.

    Raises:
        VigilError: with `failure`, where that is not the account of a run.
    """
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", said)
    if not found:
        raise VigilError(failure)
    requests, duration_us, p50_us, p99_us, errors = (float(value) for value in found.groups())
    return Load(requests / (duration_us / 1e6), p50_us / 1e3, p99_us / 1e3, int(errors))
