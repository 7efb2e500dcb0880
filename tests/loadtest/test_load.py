"""Locust for some seconds against a real service, and against one that stands still."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from testbed import tiny_model
from testbed.served import LOCALHOST, ROOT
from vigil import domains

CALLERS = {
    "HTTP, 32 payments",
    "HTTP, a feature row",
    "HTTP, a payment",
    "gRPC stream, a payment",
    "gRPC, a payment",
}
GATES = """
[all]
steps = [{seconds = 6, per_s = 50}]
warm_s = 2
gates = {p99_ms = 60000, failed_share = 0.0, goodput_share = 0.5}
[stands-still]
steps = [{seconds = 6, per_s = 10}]
warm_s = 1
gates = {p50_ms = 500, failed_share = 0.0}
"""


def load(folder: Path, scenario: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A scenario; its pages go to FOLDER."""
    (folder / "gates.toml").write_text(GATES)
    command = [sys.executable, "-m", "loadtest.load", "--scenario", scenario, "--gates", str(folder / "gates.toml")]
    env = os.environ | {"BENTOML_HOME": str(folder / "bentoml")}
    return subprocess.run(
        [*command, "--reports", str(folder), *more], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )


def test_every_kind_of_caller_is_answered_and_told_of_beside_the_services_own_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    tiny_model.store(tmp_path, domains.load("payments"))
    done = load(tmp_path, "all", "--processes", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    assert {row[0] for row in rows[2:]} == CALLERS
    for kind, good, failed, *times in rows[2:]:
        assert (int(good) > 0, failed) == (True, "0"), kind
        assert all(float(ms) > 0 for ms in times), kind
    page = (tmp_path / "load.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == 1
    assert all(text in page for text in (*CALLERS, "goodput_share"))
    assert (tmp_path / "locust.html").stat().st_size


@pytest.fixture
def stands_still() -> Iterator[str]:
    """The address of a server that stops for three seconds once two seconds after its first answer."""
    began: list[float] = []
    stop = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            began.append(time.monotonic())
            if began[-1] - began[0] > 2 and stop.acquire(blocking=False):
                threading.Event().wait(3)
            body = json.dumps({"risk": 0.5}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((LOCALHOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{LOCALHOST}:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_stands_still_breaks_the_gate_though_it_delays_one_answer_only(
    stands_still: str, tmp_path: Path
) -> None:
    done = load(tmp_path, "stands-still", "--host", stands_still, "--callers", "HttpOne")
    # One caller, ten requests a second: those that fell due meanwhile waited too, most of all there were.
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^FAILED  p50_ms: \d+", done.stdout, re.MULTILINE)
    assert "passed  failed_share: 0" in done.stdout
    assert "failed" in (tmp_path / "load.html").read_text()


def test_a_scenario_that_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    done = load(tmp_path, "steep")
    assert done.returncode == 1
    assert "no scenario 'steep', wanted one of all, stands-still" in done.stdout.replace("\n", " ")
