"""The pages for contributors, done step by step as they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "contributing" / "feature-kind.md"


def test_the_page_on_feature_kinds_adds_one_that_keeps_the_laws(tmp_path: Path) -> None:
    for name in ("vigil", "tests", "model_store", "loadtest", "testbed"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    changes = re.findall(r"^```diff\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(changes) == 3
    for change in changes:
        subprocess.run(["git", "apply", "--recount"], input=change, text=True, cwd=tmp_path, check=True)
    laws = ["tests/features/test_windows.py", "tests/domains/test_spec.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *laws]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:]
    kinds = "from vigil.domains.windows import Variation; import vigil; print(vigil.__file__)"
    found = subprocess.check_output([sys.executable, "-c", kinds], cwd=tmp_path, text=True)
    assert found.startswith(str(tmp_path))
