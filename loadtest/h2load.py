"""gRPC load by `h2load`, and what it measured."""

from __future__ import annotations

import re
import shutil
import statistics
import struct
import subprocess
from pathlib import Path

from loadtest.wrk import Load
from vigil.errors import Unavailable, VigilError

WARM_S = 1


def h2load(
    address: str,
    method: str,
    message: bytes,
    folder: Path,
    seconds: int,
    connections: int = 8,
    streams: int = 8,
    messages: int = 1,
) -> Load:
    """Calls `method` with `message` from one thread, as fast as calls are answered, after a second of warming up.

    Args:
        address: `host:port` of a server without TLS.
        method: path, as in `/inference.GRPCInferenceService/ModelInfer`.
        message: the encoded request.
        folder: for the files of h2load.
        connections: kept connections.
        streams: calls at once on each connection.
        messages: how often a call sends the message; more than one is for bidirectional streams.

    Returns:
        Messages a second; latencies of a whole call; calls that failed. h2load sees a failed call as it sees
        any other where its status comes behind headers: those it gives no data for are counted as errors.

    Raises:
        Unavailable: where h2load is not installed.
        VigilError: where it failed, with what it said.
    """
    program = shutil.which("h2load")
    if program is None:
        raise Unavailable("h2load is not installed: `apt-get install nghttp2-client`")
    body, log = folder / "h2load.body", folder / "h2load.log"
    body.write_bytes((struct.pack(">BI", 0, len(message)) + message) * messages)
    log.unlink(missing_ok=True)
    command = [program, "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"--warm-up-time={WARM_S}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command += ["-d", str(body), f"--log-file={log}", f"http://{address}{method}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    rate = re.search(r"([\d.]+) req/s", ran.stdout)
    calls = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", ran.stdout)
    traffic = re.search(r"traffic: .*, \S+ \((\d+)\) data", ran.stdout)
    if not rate or not calls or not traffic or not log.exists():
        raise VigilError(f"{' '.join(command)}: {ran.stderr or ran.stdout}")
    print(ran.stdout)
    took_ms = [int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()]
    cuts = statistics.quantiles(took_ms, n=100)
    return Load(float(rate[1]) * messages, cuts[49], cuts[98], int(calls[3]))
