"""What a machine lacks is told by name; in CI it is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SLOW

WAYS = {
    "a part that is missing": "from tests.conftest import TOOLS, part\ndef test(): part(TOOLS / 'none', 'make none')\n",
    "a mark": "import pytest\n@pytest.mark.skip(reason='make none')\ndef test(): pass\n",
    "a whole file": "import pytest\npytest.skip('make none', allow_module_level=True)\n",
}


def pytest_run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the tests of a folder with what all of ours share, and with no more plugins than it takes."""
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "tests.conftest", "--rootdir", str(folder), "-q"]
    ours = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    everything = {**os.environ, **ours, **environment}
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=everything, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("text", "more"),
    [*((text, ()) for text in WAYS.values()), (WAYS["a whole file"], ("-n2",))],
    ids=[*WAYS, "a whole file, of two processes"],
)
def test_a_skipped_test_is_named_and_fails_in_ci_alone(text: str, more: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(f"{text}\ndef test_that_runs(): pass\n")
    (tmp_path / "test_more.py").write_text("def test_that_runs(): pass\n")
    for ci, code in (("true", 1), ("", 0)):
        ran = pytest_run(tmp_path, "-rs", *more, CI=ci)
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert "make none" in ran.stdout
        assert ("1 skipped, and in CI none may be" in ran.stdout) == bool(code)


def test_what_is_slow_is_there() -> None:
    assert [name for name in SLOW if not (ROOT / "tests" / name).exists()] == []


def test_an_order_by_a_seed_is_the_same_each_time_and_another_by_another(tmp_path: Path) -> None:
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text("".join(f"def test_{number}(): pass\n" for number in range(9)))

    def order(*more: str) -> list[str]:
        listed = pytest_run(tmp_path, "--collect-only", *more)
        return [line for line in listed.stdout.splitlines() if "::" in line]

    plain, once, again, other = order(), order("--order", "1"), order("--order", "1"), order("--order", "2")
    assert len(plain) == 18
    assert once == again
    assert sorted(once) == sorted(other) == sorted(plain)
    assert len({tuple(each) for each in (plain, once, other)}) == 3
