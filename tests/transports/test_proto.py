"""The generated code is that of the published file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROTO = Path("vigil/transports/proto")


def test_generating_again_gives_the_code_that_is_here(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    command += [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", str(PROTO / "decisions.proto")]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in ("decisions_pb2.py", "decisions_pb2_grpc.py"):
        assert (tmp_path / PROTO / name).read_text() == (ROOT / PROTO / name).read_text()
