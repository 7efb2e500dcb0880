"""Laws of the command line as a whole."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from vigil import cli


@pytest.mark.parametrize("command", ["train", "optimize"])
def test_a_command_whose_parts_are_not_installed_says_so_in_a_line(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = {"train": "training"}.get(command, command)
    monkeypatch.setitem(sys.modules, package, None)  # as where only what serves is installed
    answer = CliRunner().invoke(cli.app, [command])
    assert answer.exit_code == 1
    assert answer.stderr.startswith(f"error {package} is not installed here")
    assert answer.stderr.count("\n") == 1
