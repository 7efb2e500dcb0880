"""Laws of running records again: the same bits, or it is said which, and of what could not be run, why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.replay.conftest import DOMAIN, EVENTS, Recorded, decided, events
from vigil.decisions.archive import Archive, Writer
from vigil.replay.rerun import Rerun, Tally, as_dict

FLIPS = ("risk", "features", "action", "reasons")


def run(lines: list[bytes], size: int = 999) -> Rerun:
    rerun = Rerun(DOMAIN, 1024)
    for start in range(0, len(lines), size):
        rerun.add(lines[start : start + size])
    return rerun


def changed(line: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    values = json.loads(line)
    change(values)
    return json.dumps(values).encode()


def flipped(line: bytes, what: str) -> bytes:
    """The record with one bit of its risk or of one feature flipped, or another action or reasons."""

    def change(values: dict[str, Any]) -> None:
        if what == "risk":
            values["risk"] = float((np.array([values["risk"]]).view(np.int64) ^ 1).view(np.float64)[0])
        elif what == "features":
            raw = bytearray(b64decode(values["features"]))
            raw[2] ^= 0x40
            values["features"] = b64encode(raw).decode()
        elif what == "action":
            values["action"] = "block" if values["action"] == "approve" else "approve"
        else:
            values["reasons"] = [*values["reasons"], "no_such_reason"]

    return changed(line, change)


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_records_come_out_the_same_in_batches_of_any_size(recorded: Recorded, size: int) -> None:
    some = recorded.lines[: 300 * (1 + size // 50)]
    tally = run(some, size).tally
    assert (tally.same, tally.different, tally.left_out.total()) == (len(some), 0, 0)


@pytest.mark.parametrize("what", FLIPS)
@pytest.mark.parametrize("place", [0, 2500, EVENTS - 1])
def test_one_flipped_bit_among_all_is_found_and_no_other(recorded: Recorded, what: str, place: int) -> None:
    lines = list(recorded.lines)
    lines[place] = flipped(lines[place], what)
    tally = run(lines).tally
    assert (tally.same, tally.different) == (EVENTS - 1, 1)
    difference = as_dict(tally.first[0])
    assert difference["event_id"] == f"e{place}"
    wanted = json.loads(recorded.lines[place])
    if what != "features":
        assert difference["now"]["risk"] == wanted["risk"]
        assert difference["now"]["action"] == wanted["action"]


def test_records_of_the_rules_tier_are_run_from_their_events(recorded: Recorded) -> None:
    lines = decided(None, [*events(50), events(1)[0] | {"event_id": "much", "amount": 5000.0}], with_features=False)
    assert run(lines).tally.same == 51
    tampered = changed(lines[50], lambda values: values.update(risk=0.9))
    tally = run([*lines[:50], tampered]).tally
    assert (tally.same, tally.different) == (50, 1)


def test_records_of_the_rules_tier_whose_event_cannot_be_are_counted(recorded: Recorded) -> None:
    lines = decided(None, events(3))
    lines[1] = changed(lines[1], lambda values: values["event"].pop("amount"))
    tally = run(lines).tally
    assert tally.left_out == {"of the rules tier with an event that cannot be": 1}
    assert (tally.same, tally.different) == (2, 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": "payments:1", "digest": "0" * 64}, "of the model payments:1 (digest 000000000000), which is not in"),
        ({"spec": "0" * 12}, f"of the feature spec '000000000000'; the domain has {DOMAIN.spec_hash[:12]}"),
        ({"domain": "parcels"}, "of the domain 'parcels'"),
        ({"policy": "old"}, f"decided by policy 'old', the domain has {DOMAIN.policy.version}; the model gives the"),
        ({"features": "AAAA"}, "with 3 bytes of features, wanted 152"),
        ({"features": b64encode(b"\xff" * 152).decode()}, "with features that are no numbers"),
        ({"features": "?"}, "no decision record"),
        ({"risk": "high"}, "no decision record"),
    ],
)
def test_what_cannot_be_run_is_counted_by_why(recorded: Recorded, change: dict[str, Any], why: str) -> None:
    lines = recorded.lines[:20]
    odd = [changed(line, lambda values: values.update(change)) for line in lines[:3]]
    tally = run([*odd, *lines[3:]]).tally
    assert (tally.same, tally.different) == (17, 0)
    ((said, count),) = tally.left_out.items()
    assert (count, said[: len(why)]) == (3, why)


def test_records_without_features_and_lines_that_are_none_are_counted(recorded: Recorded) -> None:
    bare = changed(recorded.lines[0], lambda values: values.pop("features"))
    broken = [b"", b"{", b"[]", recorded.lines[1][:50], recorded.lines[1][50:], b"\xff"]
    tally: Tally = run([bare, *broken, recorded.lines[2]]).tally
    assert tally.left_out == {"without features": 1, "no decision record": 6}
    assert tally.same == 1


def test_a_changed_risk_under_another_policy_differs(recorded: Recorded) -> None:
    line = changed(flipped(recorded.lines[0], "risk"), lambda values: values.update(policy="old"))
    assert run([line]).tally.different == 1


@pytest.fixture
def vigil(recorded: Recorded, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `vigil replay ...`."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"VIGIL_STATE_DIR": str(tmp_path / "state"), "COLUMNS": "200"}
        command = [sys.executable, "-m", "vigil.cli", "replay", *map(str, arguments)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    return run


def test_the_command_ends_with_1_where_a_bit_differs_and_writes_which(
    vigil: Any, recorded: Recorded, tmp_path: Path
) -> None:
    records, out = tmp_path / "records.jsonl", tmp_path / "out.jsonl"
    records.write_bytes(b"\n".join(recorded.lines))
    good = vigil("--from", records)
    assert (good.returncode, good.stderr) == (0, "")
    assert f"{EVENTS:,} of {EVENTS:,} records come out the same to the last bit, 0 differ" in good.stdout
    records.write_bytes(b"\n".join([*recorded.lines[:7], flipped(recorded.lines[7], "risk"), *recorded.lines[8:]]))
    bad = vigil("--from", records, "--to", out)
    assert bad.returncode == 1
    assert f"{EVENTS - 1:,} of {EVENTS:,} records come out the same to the last bit, 1 differ" in bad.stdout
    (difference,) = out.read_text().splitlines()
    assert json.loads(difference)["event_id"] == "e7"


def test_the_command_reads_what_the_service_has_recorded(vigil: Any, recorded: Recorded, tmp_path: Path) -> None:
    writer = Writer(Archive(tmp_path / "state" / "decisions"), 30, 1 << 30)
    writer.append([f"e{i}" for i in range(EVENTS)], recorded.lines, 1)
    assert f"{EVENTS:,} of {EVENTS:,} records" in vigil().stdout
    assert f"{EVENTS:,} of {EVENTS:,} records" in vigil("--from", tmp_path / "state" / "decisions").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "decisions: no decision records there"),
        (("--from", "none-such.jsonl"), "none-such.jsonl: cannot be read (No such file or directory)"),
        (("--from", "x.csv"), "address 'x.csv': wanted a path ending in .jsonl, a folder, or kafka://host:port/topic"),
        (("--from", "README.md", "--labels", "x.jsonl"), "--labels tell what other decisions would cost: which model"),
        (("--from", "x.jsonl", "--model", "none"), "no model payments@none; aliases: champion"),
    ],
)
def test_what_cannot_be_is_one_line(vigil: Any, arguments: tuple[str, ...], said: str) -> None:
    done = vigil(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--model", "champion", "--labels", "{}")])
def test_a_file_that_is_read_is_not_written_over(
    vigil: Any, recorded: Recorded, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    records, labels = tmp_path / "records.jsonl", tmp_path / "labels.jsonl"
    records.write_bytes(recorded.lines[0])
    labels.write_text('{"event_id": "e0", "label": 1}')
    named = [part.format(labels) for part in arguments]
    done = vigil("--from", records, *named, "--to", labels if named else tmp_path / "." / "records.jsonl")
    assert done.returncode == 1
    assert "would be written over before it is read: wanted another file" in " ".join(done.stderr.split())
    assert (records.read_bytes(), labels.stat().st_size) == (recorded.lines[0], 30)


def test_records_of_which_none_could_be_run_are_an_error(vigil: Any, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n{}\n")
    done = vigil("--from", tmp_path / "x.jsonl")
    assert (done.returncode, done.stderr.strip()) == (1, "error none of 2 records could be run")
    assert "2 not run: no decision record" in done.stdout
