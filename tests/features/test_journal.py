"""Laws of journals: what each follows is checked, damage is refused with a remedy, and recovery says what is lost."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from xxhash import xxh3_64_intdigest

from tests.features.every_feature import DOMAIN
from tests.features.test_state import event, fill
from vigil import domains
from vigil.cli import app
from vigil.errors import StateError
from vigil.features.compiled import checks
from vigil.features.memory import replay
from vigil.features.memory.durable import State
from vigil.features.memory.journal import Entry, Journal, Reader
from vigil.features.memory.recover import recover
from vigil.features.memory.restore import restore
from vigil.features.memory.row_index import RowIndex
from vigil.features.memory.snapshot import read_snapshot, write_snapshot
from vigil.features.memory.store import MemoryStore
from vigil.settings import Settings

EVENTS = 300
REMEDY = f"nothing was changed. .* vigil features recover {DOMAIN.name}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


@pytest.fixture
def left(settings: Settings) -> Path:
    """The folder of a state whose process was killed after 300 events and 60 labels."""
    state = State(DOMAIN, settings)
    fill(state.store, 0, EVENTS)
    state.abandon()
    return state.folder


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def middle_of(path: Path, number: int) -> int:
    """A byte inside the entry of that number."""
    reader = Reader(path)
    for entry in reader:
        if entry.number == number:
            return reader.end - 5
    raise AssertionError(number)


def test_a_flipped_bit_in_the_middle_is_refused_and_recovery_loses_one_event(settings: Settings, left: Path) -> None:
    journal = left / "journal-0"
    flip(journal, middle_of(journal, 200))
    before = journal.read_bytes()
    with pytest.raises(StateError, match=rf"journal-0: an entry is damaged.* 200 entries.* 159 whole.*{REMEDY}"):
        State(DOMAIN, settings)
    assert journal.read_bytes() == before
    report = recover(DOMAIN, settings)
    assert report
    assert (report.entries, report.missing, report.events) == (359, 1, 0)
    assert (report.kept / "journal-0").read_bytes() == before
    again = State(DOMAIN, settings)
    assert again.store.state.remembered == EVENTS - 1
    again.close()
    assert recover(DOMAIN, settings) is None


def test_an_entity_whose_name_is_lost_costs_its_events_and_gives_nobody_anothers_history(
    settings: Settings, left: Path
) -> None:
    journal = left / "journal-0"
    numbers = [entry.number for entry in Reader(journal) if b'"a3"' in bytes(entry.keys)]
    flip(journal, middle_of(journal, numbers[0]))
    report = recover(DOMAIN, settings)
    lost = [i for i in range(EVENTS) if 3 in (i % 7, i % 11)]  # its first event has named a3 and b3
    assert report
    assert (report.missing, report.events) == (1, len(lost) - 1)
    again = State(DOMAIN, settings)
    assert "a3" not in again.store.rows[0]
    seen = MemoryStore(DOMAIN)  # what the others would have seen
    for i in range(EVENTS):
        if i not in lost:
            seen.apply_events([event(seen, i)])
    rows = {key: again.store.state.counts(np.array([row])).tolist() for key, row in again.store.rows[0].items()}
    assert rows == {key: seen.state.counts(np.array([row])).tolist() for key, row in seen.rows[0].items()}
    again.close()


@pytest.mark.parametrize("where", [3, 40, 100])
def test_a_damaged_header_before_entries_is_refused_and_all_entries_are_recovered(
    settings: Settings, left: Path, where: int
) -> None:
    flip(left / "journal-0", where)
    with pytest.raises(StateError, match=rf"its header is damaged.* 360 whole entries follow.*{REMEDY}"):
        State(DOMAIN, settings)
    report = recover(DOMAIN, settings)
    assert report
    assert (report.entries, report.missing, report.remembered) == (360, 0, EVENTS)


def test_a_torn_tail_is_dropped_with_a_line_in_the_log(
    settings: Settings, left: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = left / "journal-0"
    os.truncate(journal, journal.stat().st_size - 7)
    with caplog.at_level(logging.WARNING):
        state = State(DOMAIN, settings)
    assert "ends in a torn entry" in caplog.text
    assert state.store.state.remembered == EVENTS - 1
    state.close()


@pytest.mark.parametrize("change", [{"name": "other"}, {"grace_days": 0.25}], ids=["domain", "spec"])
def test_a_journal_of_another_domain_or_spec_is_refused_and_not_emptied(
    settings: Settings, left: Path, change: dict[str, object]
) -> None:
    other = replace(DOMAIN, **change)  # type: ignore[arg-type]
    folder = left.with_name(other.name)
    if folder != left:
        shutil.copytree(left, folder)
    before = (folder / "journal-0").read_bytes()
    came = DOMAIN.name if "name" in change else DOMAIN.spec_hash
    with pytest.raises(StateError, match=f"journal-0 was made for .*{came}, wanted"):
        State(other, settings)
    with pytest.raises(StateError, match=f"journal-0 was made for .*{came}, wanted"):
        recover(other, settings)
    assert (folder / "journal-0").read_bytes() == before


def test_a_snapshot_that_was_removed_is_missed(settings: Settings, left: Path) -> None:
    State(DOMAIN, settings).close()
    snapshot = (left / "snapshot").read_bytes()
    (left / "snapshot").unlink()
    with pytest.raises(StateError, match=f"newest of the files of {left} is missing: .*{REMEDY}"):
        State(DOMAIN, settings)
    (left / "snapshot").write_bytes(snapshot)
    State(DOMAIN, settings).abandon()
    (left / "snapshot").unlink()
    with pytest.raises(StateError, match=f"snapshot is missing: journal-1 needs it; {REMEDY}"):
        State(DOMAIN, settings)


def test_a_journal_that_was_removed_is_missed(settings: Settings, left: Path) -> None:
    State(DOMAIN, settings).close()
    state = State(DOMAIN, settings)
    fill(state.store, EVENTS, EVENTS + 5)
    state.abandon()
    (left / "journal-1").unlink()
    with pytest.raises(StateError, match=f"is missing: journal-1, or a snapshot after it; {REMEDY}"):
        State(DOMAIN, settings)


def test_a_journal_of_another_history_is_refused(settings: Settings, left: Path, tmp_path: Path) -> None:
    State(DOMAIN, settings).close()
    shutil.copytree(left, tmp_path / "copy")
    for count in (5, 9):
        state = State(DOMAIN, settings)
        fill(state.store, EVENTS, EVENTS + count)
        state.close()
        if count == 5:
            shutil.copy(left / "snapshot", tmp_path / "snapshot")
            shutil.rmtree(left)
            shutil.copytree(tmp_path / "copy", left)
    state = State(DOMAIN, settings)
    fill(state.store, EVENTS + 9, EVENTS + 12)
    state.abandon()
    shutil.copy(tmp_path / "snapshot", left / "snapshot")
    with pytest.raises(StateError, match=r"entries before .*journal-2 are missing"):
        State(DOMAIN, settings)


def test_a_journal_of_an_earlier_vigil_is_refused_with_the_way_out(settings: Settings) -> None:
    store = MemoryStore(DOMAIN)
    rows = store.pack([event(store, 1)]).tobytes()
    keys = b'[[0,"a1"],[1,"b1"]]'
    old = (1).to_bytes(4, "little") + len(keys).to_bytes(4, "little")
    old += xxh3_64_intdigest(keys + rows).to_bytes(8, "little") + keys + rows
    state = State(DOMAIN, settings)
    state.close()
    (state.folder / "journal-1").write_bytes(old)
    with pytest.raises(StateError, match=r"journal-1 was written by an earlier Vigil, whose state is not read"):
        State(DOMAIN, settings)
    assert (state.folder / "journal-1").read_bytes() == old


def test_rows_that_are_no_entitys_are_refused_before_they_are_used(settings: Settings, left: Path) -> None:
    for fault in (10_000, -1, 0):
        store = MemoryStore(DOMAIN)
        batch = store.pack([event(store, 1)])
        batch[0, -1] = fault
        applied = replay.Replay(store)
        applied.add(Entry(0, 2, memoryview(b'[[0,"x"]]'), memoryview(batch.tobytes()), 0))
        with pytest.raises(replay.Fault, match="entity in"):
            applied.flush()
    path = left / "journal-0"
    found, _ = restore(left, DOMAIN)
    assert found.state.remembered == EVENTS
    reader = Reader(path)
    list(reader)
    journal: Journal = reader.resume()
    journal.append(batch.tobytes(), b"", 5)
    journal.close()
    with pytest.raises(StateError, match=rf"new entities in row 5 .*{REMEDY}"):
        State(DOMAIN, settings)


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("meta", (0, 0), 1 << 40),
        ("meta", (1, 1), -5),
        ("meta", (2, 3), 1 << 62),
        ("ring", (3, 2), 10_000),
        ("head", (1,), 1 << 50),
        ("head", (2,), -1),
        ("head", (0,), 7),
        ("head", (9,), 3),
    ],
)
def test_a_snapshot_whose_arrays_point_elsewhere_is_refused(
    tmp_path: Path, name: str, at: tuple[int, ...], value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(DOMAIN)
    fill(store, 0, 20)
    arrays = {key: array.copy() for key, array in store.compacted().items()}
    arrays[name][at] = value
    monkeypatch.setattr(store, "compacted", lambda: arrays)
    path = write_snapshot(store, tmp_path)
    with pytest.raises(StateError, match="snapshot is damaged"):
        read_snapshot(MemoryStore(DOMAIN), path)


def test_a_snapshot_with_two_entities_in_one_row_is_refused(tmp_path: Path) -> None:
    store = MemoryStore(DOMAIN)
    fill(store, 0, 20)
    store.rows[0] = RowIndex([(key, 1) for key in store.rows[0]])
    with pytest.raises(StateError, match="snapshot is damaged"):
        read_snapshot(MemoryStore(DOMAIN), write_snapshot(store, tmp_path))
    assert checks.find_batch_fault(np.zeros((0, 9), np.int64), 6, np.zeros(0, np.uint8)) == ""


def test_the_command_says_what_it_has_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_STATE_DIR", str(tmp_path))
    payments = domains.load("payments")
    state = State(payments, Settings(state_dir=tmp_path))
    for i in range(5):
        state.store.apply_events([state.store.schema.make(payments.example | {"event_id": i})])
    state.abandon()
    said = CliRunner().invoke(app, ["features", "recover", "payments"])
    assert (said.exit_code, said.output) == (0, "nothing is damaged, and nothing was changed\n")
    flip(state.folder / "journal-0", middle_of(state.folder / "journal-0", 2))
    said = CliRunner().invoke(app, ["features", "recover", "payments"])
    assert said.exit_code == 0
    assert "4 remembered events are in the new snapshot" in said.output
    assert "lost: 1 entries of journals" in said.output
    assert str(state.folder / "damaged-1") in said.output
