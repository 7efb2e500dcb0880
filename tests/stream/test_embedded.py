"""Laws of a stream without a broker: files and pipes in, decision records out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from vigil import domains
from vigil.domains.simulation import simulate
from vigil.features.history import UNKNOWN, History
from vigil.features.memory.store import MemoryStore
from vigil.scoring.session import Session
from vigil.stream.endpoints import WANTED

DOMAIN = domains.load("payments")
EVENTS = 400


@pytest.fixture
def vigil(home: Path, tmp_path: Path) -> Any:
    """Runs `vigil ...` with a state of its own; gives what it printed, and what it said."""
    env = os.environ | {"BENTOML_HOME": str(home), "VIGIL_STATE_DIR": str(tmp_path / "state")}

    def run(*arguments: object, given: bytes = b"") -> tuple[bytes, str]:
        command = [sys.executable, "-m", "vigil.cli", *map(str, arguments)]
        done = subprocess.run(command, env=env, input=given, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout, done.stderr.decode()

    return run


def event(i: int, **changed: object) -> bytes:
    values = {"event_id": f"e{i}", "ts": 1_600_000_000_000 + i, "customer": i % 3, "terminal": i % 5, "amount": 10.5}
    return json.dumps(values | changed).encode()


def test_a_simulated_feed_through_a_pipe_gives_the_features_and_risks_of_the_same_days_of_history(
    vigil: Any, home: Path
) -> None:
    lines, _ = vigil("simulate", "--to", "-", "--rate", 0, "--count", EVENTS)
    out, said = vigil("stream", "--from", "-", "--to", "-", given=lines)
    assert f"{EVENTS:,} decisions, 0 refused; delivered at most once" in said
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["event"] for record in records] == [json.loads(line) for line in lines.splitlines()]
    made = simulate(0, 183, 1)
    first = slice(0, EVENTS)
    past = History(
        DOMAIN,
        made.event_ids[first],
        made.ts_ms[first],
        {name: keys[first] for name, keys in made.keys.items()},
        {name: values[first] for name, values in made.numbers.items()},
        np.full(EVENTS, UNKNOWN, np.int8),
    )
    features = MemoryStore(DOMAIN).replay(past)
    assert b"".join(b64decode(record["features"]) for record in records) == features.tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        risks = Session.load(DOMAIN, "champion", 1024).run(features)
    assert [record["risk"] for record in records] == risks.tolist()


def test_a_record_says_who_decided_and_on_what(vigil: Any) -> None:
    out, _ = vigil("stream", given=event(1))
    record = json.loads(out)
    assert list(record)[:3] == ["event_id", "risk", "action"]
    assert record["event_id"] == "e1"
    assert record["event"] == json.loads(event(1))
    assert record["model"].startswith("payments:")
    assert len(record["digest"]) == 64
    assert record["policy"] == DOMAIN.policy.version
    assert (record["domain"], record["tier"], record["degraded"]) == ("payments", "full", False)
    assert record["spec"] == DOMAIN.spec_hash[:12]
    assert np.frombuffer(b64decode(record["features"]), "<f4").shape == (len(DOMAIN.features),)


def test_features_can_be_left_out_of_records(vigil: Any) -> None:
    out, _ = vigil("stream", "--no-features", given=event(1))
    assert "features" not in json.loads(out)


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"nonsense", "body: got 'nonsense', wanted a JSON object"),
        (event(9, amount=-1), "amount: got -1.0, wanted a finite number > 0"),
        (event(9, ts=1 << 43), "ts: got 8796093022208 (2248-09-26T15:10:22Z), wanted epoch milliseconds up to"),
        (event(9) + b"," + event(10), "trailing characters"),
        (b"[" + event(9) + b"]", "wanted a JSON object"),
        (b'{"event_id":"\xff"}', "body: "),
    ],
)
def test_what_cannot_be_scored_is_named_and_the_others_go_through(
    vigil: Any, tmp_path: Path, place: int, bad: bytes, why: str
) -> None:
    lines = [event(i) for i in range(4)]
    lines.insert(place, bad)
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    _, said = vigil("stream", "--from", tmp_path / "in.jsonl", "--to", tmp_path / "out.jsonl")
    ids = [json.loads(line)["event_id"] for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert ids == ["e0", "e1", "e2", "e3"]
    assert f"event {place + 1} refused: " in said
    assert why in said
    assert "4 decisions, 1 refused; delivered at least once" in said


def test_two_broken_lines_that_make_a_good_one_together_are_two_broken_lines(vigil: Any) -> None:
    whole = event(1)
    _, said = vigil("stream", given=whole[:40] + b"\n" + whole[40:] + b"\n" + event(2))
    assert "1 decisions, 2 refused" in said


def test_parquet_goes_in_and_comes_out(vigil: Any, tmp_path: Path) -> None:
    rows = [json.loads(event(i)) for i in range(20)]
    rows[3]["amount"] = 0.0
    pl.DataFrame(rows).rename({"amount": "TX_AMOUNT"}).write_parquet(tmp_path / "in.parquet")
    _, said = vigil("stream", "--from", tmp_path / "in.parquet", "--to", tmp_path / "out.parquet")
    assert "event 4 refused: amount: got 0.0" in said
    table = pl.read_parquet(tmp_path / "out.parquet")
    assert table["event_id"].to_list() == [f"e{i}" for i in range(20) if i != 3]
    assert table["risk"].is_between(0, 1).all()
    assert table["features"].to_numpy().shape == (19, len(DOMAIN.features))
    assert table["features"].to_numpy()[0][0] == 10.5
    assert json.loads(table["event"][0]) == rows[0] | {"amount": 10.5}
    assert not (tmp_path / "out.parquet.new").exists()


def test_an_address_that_is_none_is_one_line(home: Path, tmp_path: Path) -> None:
    env = os.environ | {"BENTOML_HOME": str(home), "VIGIL_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "vigil.cli", "stream", "--from", "payments.txt"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip() == f"error address 'payments.txt': wanted {WANTED}"


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_file_is_not_written_over_while_it_is_read(home: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"precious")
    env = os.environ | {"BENTOML_HOME": str(home), "VIGIL_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "vigil.cli", "stream", "--from", str(path), "--to", str(tmp_path / "." / name)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "wanted another file" in done.stderr
    assert path.read_bytes() == b"precious"
