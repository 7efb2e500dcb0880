"""Laws of the machine code's cache: it never outlives what it was made of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vigil.features.compiled import machine

ROOT = Path(__file__).parent.parent.parent
SATURDAY = """
from vigil.domains.windows import CODES
from vigil.features.compiled import windows
print(windows._of_event(CODES["WEEKEND"], 0, 2 * 86_400_000, 0))
print(sum(windows._of_event.stats.cache_hits.values()))
"""


def run(folder: Path) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", SATURDAY]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.split()


def test_a_changed_constant_of_another_file_is_compiled_anew(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "vigil", tmp_path / "vigil", ignore=shutil.ignore_patterns("__pycache__"))
    assert run(tmp_path) == ["1.0", "0"]
    assert run(tmp_path) == ["1.0", "1"]
    layout = tmp_path / "vigil" / "features" / "compiled" / "layout.py"
    layout.write_text(layout.read_text().replace("DAY_MS = 86_400_000", "DAY_MS = 2 * 86_400_000"))
    assert run(tmp_path) == ["0.0", "0"]
    folders = list((layout.parent / "__pycache__").glob("vigil-*"))
    assert len(folders) == 1, "the code of earlier sources is dropped"


def test_where_the_package_cannot_be_written_the_user_s_cache_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_HERE", tmp_path / "file")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert machine.cache_folder("") == str(tmp_path / "cache" / "numba" / f"vigil-{machine.digest()}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert machine.cache_folder("") == ""


def test_the_folder_that_was_chosen_is_taken_and_shared(tmp_path: Path) -> None:
    (tmp_path / "vigil-other").mkdir()
    assert machine.cache_folder(str(tmp_path)) == str(tmp_path / f"vigil-{machine.digest()}")
    assert (tmp_path / "vigil-other").is_dir()


def test_all_that_python_calls_is_warmed_with_one_set_of_types() -> None:
    """Else the image, which has no numba, could not be made."""
    script = "from vigil.features import ahead; print(len(ahead.signatures()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
