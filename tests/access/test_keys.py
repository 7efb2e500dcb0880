"""Keys: shown once, stored as hashes, in files that several hands change."""

from __future__ import annotations

import os
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vigil.access import keys
from vigil.access.identity import SCOPES
from vigil.cli import app
from vigil.errors import ConfigError, NotFound


def test_a_key_is_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, text = keys.create(path, "till", ["score"])
    assert re.fullmatch(r"vigil_[0-9a-f]{8}_[\w-]{43}", text)
    assert text.split("_")[1] == key.id
    assert text[15:].encode() not in path.read_bytes()
    assert keys.digest(text.encode()).hex() == keys.read(path)[0].hash
    assert path.stat().st_mode & 0o077 == 0


def test_a_key_ends_at_once_or_after_a_time_beside_the_one_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    old, _ = keys.create(path, "till", ["score"])
    new, _ = keys.create(path, "till", ["score"])
    ended = keys.revoke(path, old.id, timedelta(hours=1))
    assert ended.expires is not None
    assert timedelta(minutes=59) < ended.expires - datetime.now(UTC) <= timedelta(hours=1)
    assert [key.id for key in keys.read(path)] == [old.id, new.id]
    keys.revoke(path, old.id)
    assert [key.id for key in keys.read(path)] == [new.id]
    with pytest.raises(NotFound, match=f"no key 'none'; there are {new.id}"):
        keys.revoke(path, "none")


def test_what_several_hands_make_at_once_is_all_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    hands = [threading.Thread(target=keys.create, args=(path, f"till {i}", SCOPES)) for i in range(24)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert {key.name for key in keys.read(path)} == {f"till {i}" for i in range(24)}
    assert sorted(os.listdir(tmp_path)) == ["keys.json", "keys.json.lock"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"keys": 5}',
        b'{"keys": [{}]}',
        b'{"more": 1}',
        b'{"keys": [{"id": "a", "name": "n", "scopes": ["all"], "created": "2026-01-01T00:00:00Z", "hash": "00"}]}',
        b'{"keys": [{"id": "a", "name": "n", "scopes": ["score"], "created": "2026-01-01T00:00:00Z", "hash": "00"}]}',
        b'{"keys": [{"id": "a", "name": "n", "scopes": ["score"], "created": "2026-01-01T00:00:00Z"}]}',
        b'{"keys": [{"id": "a", "name": "n", "scopes": ["score"], "created": "2026-01-01T00:00:00", "subject": "s"}]}',
        b'{"keys": [{"id": "a", "name": "\\n", "scopes": ["score"], "created": "2026-01-01T00:00:00Z"}]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_file_that_holds_no_keys_is_named_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    for use in (lambda: keys.read(path), lambda: keys.create(path, "n", ["score"]), lambda: keys.revoke(path, "a")):
        with pytest.raises(ConfigError, match=re.escape(f"keys in {path}: ")):
            use()
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_loses_no_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="keys in "):
        keys.create(tmp_path / "file" / "keys.json", "n", ["score"])


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_STATE_DIR", str(tmp_path))
    run = CliRunner()
    made = run.invoke(app, ["keys", "create", "till 7", "--scopes", "score, feedback", "--days", "90"])
    assert made.exit_code == 0
    text = made.stdout.strip()
    assert keys.digest(text.encode()).hex() == keys.read(tmp_path / "keys.json")[0].hash
    shown = run.invoke(app, ["keys", "list"]).stdout
    assert "till 7" in shown
    assert text not in shown
    ended = run.invoke(app, ["keys", "revoke", text.split("_")[1]])
    assert (ended.exit_code, keys.read(tmp_path / "keys.json")) == (0, [])
    wrong = run.invoke(app, ["keys", "create", "x", "--scopes", "all"])
    assert (wrong.exit_code, "wanted some of score, infer" in wrong.stderr) == (1, True)
