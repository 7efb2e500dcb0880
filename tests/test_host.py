"""What is there on one system and not on another: both ways run here."""

from __future__ import annotations

import fcntl
import os
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vigil import host


@pytest.fixture
def file(tmp_path: Path) -> int:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"content")
    return descriptor


def test_linux_writes_content_out_without_the_times_of_the_file(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "fdatasync", forced.append, raising=False)
    host.sync(file)
    assert forced == [file]


def test_macos_has_the_disk_empty_its_own_memory(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda *given: asked.append(given))
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("F_FULLFSYNC does it all"))
    host.sync(file)
    assert asked == [(file, 51)]


def test_a_file_system_without_that_gets_what_it_has(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: int) -> None:
        raise OSError(45, "Operation not supported")

    forced: list[int] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", refuses)
    monkeypatch.setattr(os, "fsync", forced.append)
    host.sync(file)
    assert forced == [file]


def test_a_system_without_fdatasync_writes_all_out(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.delattr(os, "fdatasync", raising=False)
    monkeypatch.setattr(os, "fsync", forced.append)
    host.sync(file)
    assert forced == [file]


def test_a_disk_that_cannot_write_is_heard_of() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        host.sync(1_000_000)


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_processors_are_counted_without_an_affinity_too(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    if system != "linux":
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert host.processors() >= 1
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert host.processors() >= 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: AMD EPYC 7B13\n", "AMD EPYC 7B13"),
        ("CPU part\t: 0xd0c\n", "aarch64"),
        (None, "aarch64"),
    ],
)
def test_a_processor_has_the_name_that_the_kernel_says_or_its_architecture(
    text: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert host.processor() == name


def test_memory_that_the_system_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (host.memory_gib() or 0) > 0.1

    def refuses(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", refuses)
    assert host.memory_gib() is None


def test_the_pythons_it_runs_on_are_those_of_the_package() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest, beyond = (".".join(map(str, version)) for version in host.PYTHONS)
    assert wanted == f">={oldest},<{beyond}"
