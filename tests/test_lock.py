"""The pins can be had, as wheels, on every system and Python that Vigil is for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vigil import host

UV = Path(sys.executable).parent / "uv"
PYTHONS = [f"3.{minor}" for minor in range(host.PYTHONS[0][1], host.PYTHONS[1][1])]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin"])
def test_every_pin_has_a_wheel(system: str, python: str, tmp_path: Path) -> None:
    """Of dev.txt, with which the other files agree."""
    command = [UV, "pip", "install", "--dry-run", "--quiet", "--only-binary", ":all:", "--require-hashes"]
    command += ["--python-version", python, "--python-platform", system, "--target", tmp_path]
    ran = subprocess.run(
        [*command, "-r", ROOT / "requirements" / "dev.txt"],
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "Failed to fetch" in ran.stderr or "error sending request" in ran.stderr:
        pytest.skip(f"no package index answers: {ran.stderr.strip().splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.stem)
def test_every_pin_has_its_hashes_and_no_file_names_an_index(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)
    pins = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", text, re.MULTILINE | re.DOTALL)
    assert pins
    assert [pin.split()[0] for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize("pins", ["serve", "train", "stream", "load", "image", "kernel", "uv"])
def test_dev_holds_what_is_installed_without_it(pins: str) -> None:
    """What has a wheel there has one here, too."""
    held, own = (
        set(re.findall(r"^([a-z0-9_.-]+==\S+)", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE))
        for name in ("dev", pins)
    )
    assert own <= held
