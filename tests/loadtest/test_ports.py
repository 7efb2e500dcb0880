"""Ports for servers of tests: many processes of many users ask for them at once."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import served
from tests.conftest import ROOT

ASKS = """
import random, sys
from pathlib import Path
from testbed import served
class Few(random.SystemRandom):
    def randrange(self, first, last): return super().randrange(first, first + 40)
served.random.SystemRandom = Few
served._RESERVATIONS = Path(sys.argv[1])
sys.stdin.readline()
print(*[served.free_port() for _ in range(5)], flush=True)
sys.stdin.read()
"""


def asker(folder: Path) -> subprocess.Popen[str]:
    """A process that asks for five of 40 ports once it is told to, and stays."""
    command = [sys.executable, "-c", ASKS, str(folder / "ports")]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(asking: subprocess.Popen[str]) -> None:
    assert asking.stdin
    asking.stdin.write("now\n")
    asking.stdin.flush()


def told(asking: subprocess.Popen[str]) -> set[int]:
    assert asking.stdout
    return {int(port) for port in asking.stdout.readline().split()}


def test_processes_that_ask_at_once_never_get_the_same_port(tmp_path: Path) -> None:
    asking = [asker(tmp_path) for _ in range(5)]
    try:
        for each in asking:
            ask(each)
        ports = [told(each) for each in asking]
        assert len(set.union(*ports)) == 25  # of 40
    finally:
        for each in asking:
            each.kill()
            each.communicate()


def test_the_ports_of_a_process_that_was_killed_can_be_had_again(tmp_path: Path) -> None:
    for _ in range(10):
        with asker(tmp_path) as asking:
            ask(asking)
            assert len(told(asking)) == 5
            asking.send_signal(signal.SIGKILL)
            asking.communicate()


def test_a_port_that_a_stranger_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", served.free_port()))
        taken, other = stranger.getsockname()[1], served.free_port()
        monkeypatch.setattr(served, "_ours", set())
        asked = iter([taken, other])
        monkeypatch.setattr(served.random.SystemRandom, "randrange", lambda *_: next(asked))
        assert served.free_port() == other
