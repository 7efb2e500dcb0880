"""gRPC load by `h2load`, and what it measured."""

from __future__ import annotations

import re
import shutil
import statistics
import struct
import subprocess
from pathlib import Path

import grpc

from loadtest.wrk import Load
from vigil.errors import Unavailable, VigilError


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
    """Calls `method` with `message` from one thread, as fast as calls are answered.

    h2load does not look at the status of a call, which comes behind its answer: what is short of the bytes
    that one good answer has is counted as errors.

    Args:
        address: `host:port` of a server without TLS.
        method: path, as in `/inference.GRPCInferenceService/ModelInfer`.
        message: the encoded request.
        folder: for the files of h2load.
        seconds: of load.
        connections: kept connections.
        streams: calls at once on each connection.
        messages: how often each call sends the message; more than one is for bidirectional streams.

    Returns:
        Messages a second, the latency of whole calls, and calls that failed.

    Raises:
        Unavailable: where h2load is not installed.
        VigilError: where it or a first call failed, with what it said.
    """
    program = shutil.which("h2load")
    if program is None:
        raise Unavailable("h2load is not installed: `apt-get install nghttp2-client`")
    answer_bytes = _answer_bytes(address, method, message)
    body, log = folder / "h2load.body", folder / "h2load.log"
    body.write_bytes((struct.pack(">BI", 0, len(message)) + message) * messages)
    log.unlink(missing_ok=True)
    command = [program, "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"--log-file={log}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(body)]
    ran = subprocess.run([*command, f"http://{address}{method}"], capture_output=True, text=True, check=False)
    rate = re.search(r"([\d.]+) req/s", ran.stdout)
    done = re.search(r"(\d+) done", ran.stdout)
    data = re.search(r"\((\d+)\) data", ran.stdout)
    if not rate or not done or not data:
        raise VigilError(f"{' '.join(command)}: {ran.stderr or ran.stdout}")
    took_ms = [int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()]
    if len(took_ms) < 2:
        raise VigilError(f"{' '.join(command)}: got {len(took_ms)} answered calls, wanted at least 2")
    percentiles = statistics.quantiles(took_ms, n=100)
    errors = max(0, int(done[1]) - int(data[1]) // (answer_bytes * messages))
    return Load(float(rate[1]) * messages, percentiles[49], percentiles[98], errors)


def _answer_bytes(address: str, method: str, message: bytes) -> int:
    """Bytes of the answer to one message, each with the five in front of it."""
    with grpc.insecure_channel(address) as channel:
        try:
            answers = list(channel.stream_stream(method)(iter([message]), timeout=10))
        except grpc.RpcError as failure:
            raise VigilError(f"{method} at {address}: {failure.code().name}: {failure.details()}") from None
    return sum(5 + len(answer) for answer in answers)
