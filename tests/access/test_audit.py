"""Laws of the audit log: what was written is there, and every change of it is found."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from vigil import cli
from vigil.access import audit
from vigil.access.audit import AuditLog
from vigil.errors import ConfigError, InvalidInput

NOW_MS = 1_700_000_000_000
KEY = b"0123456789abcdef"
WRITER = """
import sys, time
from pathlib import Path
from vigil.access.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), lambda: time.time_ns() // 1_000_000, file_bytes=int(sys.argv[3]))
for i in range(int(sys.argv[2])):
    log.write("ci", "load", "10.0.0.1", f"model-{i}")
    if not i % 100:
        print(i, flush=True)
        time.sleep(0.01)
print(log.close())
"""
ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}


def write(
    root: Path, count: int, key: bytes = b"", file_bytes: int = 1 << 20, clock: Callable[[], int] | None = None
) -> None:
    log = AuditLog(root, clock or (lambda: NOW_MS), key, file_bytes)
    for i in range(count):
        log.write("ci", "load", "10.0.0.1", f"model-{i}")
        if file_bytes < 1000:
            time.sleep(0.06)  # written one by one, so files are begun
    assert log.close() == 0


def faults(root: Path, key: bytes = b"") -> list[str]:
    return [one.fault for one in audit.verify(root, key) if one.fault]


def lines(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in audit.find(root)]


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.jsonl"))


def until(holds: Callable[[], object]) -> None:
    end_s = time.monotonic() + 20
    while not holds() and time.monotonic() < end_s:
        time.sleep(0.01)
    assert holds()


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("vigil_audit_total", {"outcome": outcome}) or 0.0


def test_what_was_written_is_there_in_order(tmp_path: Path) -> None:
    write(tmp_path, 1000)
    found = lines(tmp_path)
    assert [line["what"] for line in found[:2]] == ["genesis", "start"]
    assert [line["target"] for line in found[2:]] == [f"model-{i}" for i in range(1000)]
    assert found[2] | {"prev": ""} == {
        "n": 3,
        "ts": "2023-11-14T22:13:20.000Z",
        "who": "ci",
        "what": "load",
        "from": "10.0.0.1",
        "target": "model-0",
        "result": "ok",
        "prev": "",
    }
    [verdict] = audit.verify(tmp_path)
    assert (verdict.files, verdict.lines, verdict.torn, verdict.fault) == (1, 1002, 0, "")


@pytest.mark.parametrize("key", [b"", KEY])
def test_every_change_of_a_byte_is_found(tmp_path: Path, key: bytes) -> None:
    write(tmp_path, 3, key, 600)
    assert not faults(tmp_path, key)
    assert len(files(tmp_path)) > 1
    for path in [*files(tmp_path), *tmp_path.glob("*/head")]:
        data = path.read_bytes()
        for at in range(len(data)):
            for flip in (1, 0x20, 0x80, data[at] ^ 0x0A or 1):
                path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
                assert faults(tmp_path, key), f"{path} byte {at} ^ {flip}"
        path.write_bytes(data)
    assert not faults(tmp_path, key)


def test_every_line_removed_doubled_or_swapped_is_found(tmp_path: Path) -> None:
    write(tmp_path, 10)
    [path] = files(tmp_path)
    whole = path.read_bytes().splitlines(keepends=True)
    for i in range(len(whole)):
        changed = [whole[:i] + whole[i + 1 :], [*whole[:i], whole[i], *whole[i:]]]
        changed += [
            [*whole[:i], whole[j], *whole[i + 1 : j], whole[i], *whole[j + 1 :]] for j in range(i + 1, len(whole))
        ]
        changed.append([*whole[:i], b'{"n":1}\n', *whole[i:]])
        for others in changed:
            path.write_bytes(b"".join(others))
            assert faults(tmp_path)
    for end in range(len(whole)):
        path.write_bytes(b"".join(whole[:end]))
        assert "has 12" in faults(tmp_path)[0]


def test_every_file_removed_or_renamed_is_found(tmp_path: Path) -> None:
    write(tmp_path, 4, file_bytes=300)
    assert len(files(tmp_path)) == 3
    for path in [*files(tmp_path), *tmp_path.glob("*/head")]:
        path.rename(tmp_path / "aside")
        assert faults(tmp_path), path
        (tmp_path / "aside").rename(path)
    path = files(tmp_path)[1]
    path.rename(path.with_name("000000000999.jsonl"))
    assert faults(tmp_path)


def test_a_chain_removed_or_set_back_is_found_by_another_that_has_seen_it(tmp_path: Path) -> None:
    first = AuditLog(tmp_path, lambda: NOW_MS)
    until(lambda: lines(tmp_path))
    write(tmp_path, 3)  # another chain, as the first is held
    first.write("ci", "load", "10.0.0.1")
    first.close()
    shutil.copytree(tmp_path / "0", tmp_path.parent / f"{tmp_path.name}-old")
    write(tmp_path, 5)  # goes on with the first
    count = len(lines(tmp_path))
    other = AuditLog(tmp_path, lambda: NOW_MS)
    until(lambda: len(lines(tmp_path)) > count)
    write(tmp_path, 1)  # goes on with the second, which sees the first
    other.close()
    assert not faults(tmp_path)
    shutil.rmtree(tmp_path / "0")
    assert "is missing: " in faults(tmp_path)[0]
    shutil.copytree(tmp_path.parent / f"{tmp_path.name}-old", tmp_path / "0")
    assert "1/000000000001.jsonl" in faults(tmp_path)[0]


def test_a_log_rewritten_without_the_key_is_found(tmp_path: Path) -> None:
    write(tmp_path, 3, KEY)
    [name] = [path.name for path in tmp_path.iterdir()]
    write(tmp_path / "forged", 3, b"another key of the same size")
    (tmp_path / "forged" / next((tmp_path / "forged").iterdir()).name).rename(tmp_path / "0")
    shutil.rmtree(tmp_path / "forged")
    shutil.rmtree(tmp_path / name)
    (tmp_path / "0").rename(tmp_path / name)
    assert faults(tmp_path, KEY)
    assert "VIGIL_AUDIT_KEY_FILE must name it" in faults(tmp_path)[0]
    shutil.rmtree(tmp_path / name)
    write(tmp_path, 3)
    assert "no chain sealed with this key" in faults(tmp_path, KEY)[0]


@pytest.mark.parametrize("key", [b"", KEY])
def test_a_log_cut_with_a_head_made_of_its_lines_is_found_where_there_is_a_key(tmp_path: Path, key: bytes) -> None:
    write(tmp_path, 5, key)
    [path] = files(tmp_path)
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:4]))
    head = json.loads((path.parent / "head").read_bytes())
    for lines_, seal in ((4, json.loads(whole[4])["prev"]), (0, ""), (0, head["seal"]), (4, head["seal"])):
        (path.parent / "head").write_text(json.dumps(head | {"lines": lines_, "seal": seal}))
        assert faults(tmp_path, key)


@pytest.mark.parametrize("end", [b"{", b'{"n":5', b"\0" * 100])
def test_a_torn_line_is_named_and_no_alarm_and_the_next_process_goes_on(tmp_path: Path, end: bytes) -> None:
    write(tmp_path, 2)
    [path] = files(tmp_path)
    path.write_bytes(path.read_bytes() + end)
    [verdict] = audit.verify(tmp_path)
    assert (verdict.torn, verdict.fault) == (len(end), "")
    write(tmp_path, 1)
    assert [line["what"] for line in lines(tmp_path)] == ["genesis", "start", "load", "load", "torn", "start", "load"]
    [verdict] = audit.verify(tmp_path)
    assert (verdict.torn, verdict.fault) == (0, "")


def test_a_damaged_chain_is_left_as_it_is_and_another_begun(tmp_path: Path) -> None:
    write(tmp_path, 3)
    [path] = files(tmp_path)
    cut = b"".join(path.read_bytes().splitlines(keepends=True)[:-1])
    path.write_bytes(cut)
    write(tmp_path, 1)
    assert path.read_bytes() == cut
    assert len(files(tmp_path)) == 2
    assert len(faults(tmp_path)) == 1


def test_kill_9_at_any_moment_leaves_a_whole_log_that_goes_on(tmp_path: Path) -> None:
    for i in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), "1000000", "3000"], env=ENV, stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.05 + 0.037 * i)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not faults(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert sum(line["what"] == "start" for line in lines(tmp_path)) == 8


def test_processes_at_once_write_chains_of_their_own(tmp_path: Path) -> None:
    script = WRITER.replace("for i in", "sys.stdin.readline()\nfor i in")  # once both have a chain
    command, pipe = [sys.executable, "-c", script, str(tmp_path), "2000", "50000"], subprocess.PIPE
    processes = [subprocess.Popen(command, env=ENV, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        assert not faults(tmp_path)  # also while they write
    assert [process.communicate()[0].split()[-1] for process in processes] == ["0", "0"]
    verdicts = audit.verify(tmp_path)
    assert sum(one.lines for one in verdicts) == 2 * 2002
    assert not faults(tmp_path)


def test_a_full_disk_costs_entries_that_are_told_and_nobody_waits(tmp_path: Path) -> None:
    before = counted("lost")
    log = AuditLog(tmp_path, lambda: NOW_MS)
    log.write("ci", "load", "10.0.0.1", "before")
    until(lambda: len(lines(tmp_path)) == 3)
    [path] = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        began_s = time.perf_counter()
        for i in range(500):
            log.write("ci", "load", "10.0.0.1", f"model-{i}")
        assert time.perf_counter() - began_s < 0.1
        until(lambda: counted("lost") - before == 500)
        assert not faults(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.write("ci", "load", "10.0.0.1", "after")
    assert log.close() == 0
    assert [(line["what"], line["target"], line["result"]) for line in lines(tmp_path)[2:]] == [
        ("load", "before", "ok"),
        ("load", "after", "ok"),
        ("lost", "", "500 entries"),
    ]
    assert not faults(tmp_path)


def test_a_folder_that_cannot_be_written_is_counted_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    before = counted("lost")
    log = AuditLog(tmp_path / "audit", lambda: NOW_MS)
    log.write("ci", "load", "10.0.0.1")
    until(lambda: counted("lost") - before == 1)
    (tmp_path / "audit").unlink()
    until(lambda: len(lines(tmp_path / "audit")) == 3)
    assert [line["what"] for line in lines(tmp_path / "audit")] == ["genesis", "start", "lost"]
    heads = (tmp_path / "audit").glob
    until(lambda: [json.loads(head.read_bytes())["lines"] for head in heads("*/head")] == [3])  # it writes no more
    shutil.rmtree(tmp_path / "audit")
    log.write("ci", "load", "10.0.0.1")
    assert log.close() == 0
    assert [line["what"] for line in lines(tmp_path / "audit")] == ["genesis", "start", "load"]


def test_a_disk_that_is_behind_costs_entries_not_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_WAITING", 10)
    log = AuditLog(tmp_path, lambda: NOW_MS)
    for _ in range(1000):
        log.write("ci", "load", "10.0.0.1")
    log.close()
    found = lines(tmp_path)
    written = sum(line["what"] == "load" for line in found)
    assert sum(int(str(line["result"]).split()[0]) for line in found if line["what"] == "lost") == 1000 - written


def test_refused_calls_are_sampled_and_the_others_counted(tmp_path: Path) -> None:
    clock = [NOW_MS]
    log = AuditLog(tmp_path, lambda: clock[0])
    for _ in range(3):
        for _ in range(1000):
            log.refuse("open", "refused", "192.0.2.9", "/v1/payments/score", "401")
        clock[0] += 1000
    log.close()
    found = lines(tmp_path)
    assert sum(line["what"] == "refused" for line in found) == 15
    assert sum(int(str(line["result"]).split()[0]) for line in found if line["what"] == "left out") == 2985


@pytest.mark.parametrize(
    "text", ["a\nb", '"}\n{"n":9', "\x1b[2J\x00\x7f", "\ud800\udcff", "\u202egnp", "x" * 60_000, "a\u2028b"]
)
def test_values_of_callers_stay_in_their_line(tmp_path: Path, text: str) -> None:
    log = AuditLog(tmp_path, lambda: NOW_MS)
    log.write(text, text, text, text, text)
    log.close()
    [path] = files(tmp_path)
    raw = path.read_bytes().splitlines()
    assert len(raw) == 3
    assert len(raw[2]) < 5000
    assert all(0x20 <= byte < 0x80 for byte in raw[2])
    assert not faults(tmp_path)


def test_a_clock_that_goes_back_breaks_no_chain(tmp_path: Path) -> None:
    clock = iter(range(NOW_MS + 10_000_000, 0, -100_000))
    write(tmp_path, 20, clock=lambda: next(clock))
    assert not faults(tmp_path)
    assert len(lines(tmp_path)) == 22


def test_a_key_file_is_checked(tmp_path: Path) -> None:
    assert audit.read_key(None) == b""
    with pytest.raises(ConfigError, match=r"VIGIL_AUDIT_KEY_FILE=.*No such file"):
        audit.read_key(tmp_path / "key")
    (tmp_path / "key").write_bytes(b"short\n")
    with pytest.raises(ConfigError, match="holds 5 bytes, wanted at least 16"):
        audit.read_key(tmp_path / "key")
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert audit.read_key(tmp_path / "key") == KEY


def test_the_command_line_verifies_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_STATE_DIR", str(tmp_path))
    run = CliRunner().invoke
    assert "there is no audit log" in run(cli.app, ["audit", "verify"]).stdout
    root = tmp_path / "audit"
    log = AuditLog(root, lambda: NOW_MS)
    log.write("local user", "keys create", "", "ci")
    log.write("ci", "unload", "10.0.0.1", "payments")
    log.close()
    good = run(cli.app, ["audit", "verify"])
    assert good.exit_code == 0
    assert "whole" in good.stdout
    [line] = run(cli.app, ["audit", "show", "--what", "unload", "--since", "2023-11-14"]).stdout.splitlines()
    assert json.loads(line)["who"] == "ci"
    assert not run(cli.app, ["audit", "show", "--who", "nobody"]).stdout
    assert not run(cli.app, ["audit", "show", "--since", "2023-11-15T00:00:00+01:00"]).stdout
    assert "wanted a time like" in run(cli.app, ["audit", "show", "--since", "yesterday"]).stderr
    [path] = files(root)
    path.write_bytes(path.read_bytes().replace(b"unload", b"reload"))
    bad = run(cli.app, ["audit", "verify", "--dir", str(root)])
    assert bad.exit_code == 1
    assert f"{path}:4: is not the line that the head has seen" in bad.stdout


def test_since_must_be_a_time(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        audit.find(tmp_path, since="x")
