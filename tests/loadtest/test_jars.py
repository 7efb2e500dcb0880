"""Kafka's jars, which several workers of a test run ask for at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

ASKS = """
import sys
from pathlib import Path
from testbed.kafka import broker
broker.JARS = Path(sys.argv[1])
print((broker.jars() / "kafka.jar").read_text(), end="")
"""
MAVEN = """#!/bin/sh
echo fetched >>"$(dirname "$0")/fetches"
for argument; do case $argument in -DoutputDirectory=*) folder=${argument#*=} ;; esac; done
sleep 0.5
echo whole >"$folder/kafka.jar"
"""


def test_processes_that_ask_at_once_fetch_once_and_all_find_everything(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("mvn", MAVEN), ("java", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", ASKS, str(tmp_path / "jars")]
    asking = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [each.communicate()[0] for each in asking] == ["whole\n"] * 3
    assert (programs / "fetches").read_text() == "fetched\n"
