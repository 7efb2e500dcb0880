"""The peers' own Python environment, `.venv-peers`: nothing of it is needed to serve, train or test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from testbed.served import ROOT
from vigil.errors import Unavailable

PINS = ROOT / "requirements" / "peers.txt"
FOLDER = ROOT / ".venv-peers"
PYTHONS = ">=3.11,<3.13"
"""nvidia-pytriton needs a NumPy that knows no later one; uv takes one of the machine, or brings it."""


def peers_python() -> Path:
    """Python of the environment, which is made where it is not there or its pins have changed.

    Raises:
        Unavailable: where that fails, with what uv said.
    """
    python, done = FOLDER / "bin" / "python", FOLDER / "pins.txt"
    if python.exists() and done.exists() and done.read_bytes() == PINS.read_bytes():
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise Unavailable("the peers need uv to be installed: `make setup` brings it")
    options = ("--quiet", "--compile-bytecode", "--require-hashes", "--requirement", str(PINS))
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", PYTHONS, str(FOLDER)],
        [uv, "pip", "install", *options, "--python", str(python)],
    ):
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise Unavailable(f"the peers' environment: {ran.stderr.strip()}")
    done.write_bytes(PINS.read_bytes())
    return python
