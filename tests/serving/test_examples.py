"""The examples do what they say, against a running service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.served import Served, free_port

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_the_python_client_gets_one_answer_over_both_wires(served: Served) -> None:
    command = [sys.executable, str(EXAMPLES / "client.py"), served.address, served.grpc_address]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.count("risk 0.") == 3


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_session_gets_an_answer_to_each_call(served: Served) -> None:
    command = [str(EXAMPLES / "curl.sh"), f"http://{served.address}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    answers = [json.loads(line) for line in ran.stdout.splitlines() if line]
    assert len(answers) == ran.stderr.count("> ") == 6
    assert answers[3]["event_id"] == answers[0]["event_id"]


def own_data(outside: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the example as a reader whose home and temporary folder are inside `outside`."""
    places = {"HOME": str(outside / "home"), "TMPDIR": str(outside / "tmp")}
    for folder in places.values():
        Path(folder).mkdir(parents=True)
    set_here = ("XDG_", "KERAS_", "MPL", "BENTOML_", "ORT_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(set_here)}
    # A reader's own setting: the example must not write into that database.
    environment = kept | places | {"VIGIL_STATE_URL": "redis://127.0.0.1:1/0"}
    command = [sys.executable, str(EXAMPLES / "own_data.py"), *arguments]
    return subprocess.run(
        command, cwd=outside, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


def files(folder: Path) -> list[str]:
    """Those in a folder, but for what TensorFlow at times leaves of a module that it writes itself."""
    found = [path for path in folder.rglob("*") if path.is_file() and "__autograph_generated" not in path.name]
    return sorted(str(path.relative_to(folder)) for path in found)


def test_a_table_of_ones_own_leads_to_a_decision_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ran = own_data(tmp_path / "outside", "--port", str(free_port()))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    decisions = re.findall(r"^(.+): (\w+), risk ([\d.]+), reasons: (.+)$", ran.stdout, re.MULTILINE)
    (normal, allowed, low, _), (stolen, refused, high, reasons) = decisions
    assert (normal, allowed) == ("a usual login", "allow")
    assert (stolen, refused) == ("the last of twelve accounts from one address", "refuse")
    assert float(low) < 0.1 < float(high)
    assert "many_accounts" in reasons
    assert "the label of that login: label" in ran.stdout
    assert files(tmp_path) == []


def test_a_step_that_fails_ends_the_example_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    ran = own_data(tmp_path / "outside", "--folder", str(tmp_path / "mine"))
    assert ran.returncode == 1
    assert re.fullmatch(r"own_data.py failed. \S+ is not empty; .+\.\n", ran.stderr)
    assert files(tmp_path) == ["mine/thesis.txt"]
