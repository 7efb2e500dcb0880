"""NVIDIA's perf_analyzer against a running service: it meets no error, and reads the server's own statistics."""

from __future__ import annotations

import re
import subprocess

import pytest

from testbed.served import Served
from tests.conftest import CLIENTS, part

CALLS = {
    "http, one row": ["-i", "http"],
    "http, 16 rows": ["-i", "http", "-b16"],
    "http, JSON tensors": ["-i", "http", "-b16", "--input-tensor-format=json", "--output-tensor-format=json"],
    "http, asynchronous": ["-i", "http", "--async"],
    "grpc, one row": ["-i", "grpc"],
    "grpc, 16 rows": ["-i", "grpc", "-b16"],
    "grpc, asynchronous": ["-i", "grpc", "--async"],
    "grpc, one stream": ["-i", "grpc", "--async", "--streaming"],
}


def analyzed(served: Served, arguments: list[str], concurrency: str) -> str:
    """What it reports. A measurement is as short as it takes: three windows, however unlike."""
    program = part(CLIENTS / "perf_analyzer" / "perf_analyzer", "`make clients` fetches it, or says what it needs")
    address = served.address if "http" in arguments else served.grpc_address
    command = [program, "-m", "payments", "-u", address, f"--concurrency-range={concurrency}", *arguments]
    command += ["--measurement-interval=250", "--stability-percentage=999", "--max-trials=5"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("call", list(CALLS))
def test_every_request_is_answered_at_any_concurrency(served: Served, call: str) -> None:
    report, batch = analyzed(served, CALLS[call], "1:64:63"), 16 if "-b16" in CALLS[call] else 1
    assert re.findall(r"Request concurrency: (\d+)", report) == ["1", "64"]
    answered = [int(count) for count in re.findall(r"Successful request count: (\d+)", report)]
    rows = [int(count) for count in re.findall(r"Inference count: (\d+)", report)]
    assert (len(answered), rows) == (2, [batch * count for count in answered]), report
    assert "error" not in report.lower()
