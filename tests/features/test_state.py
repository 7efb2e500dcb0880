"""Laws of the state on disk, with real processes killed for real."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.features.every_feature import DOMAIN
from vigil.domains.schema import Feedback
from vigil.errors import StateError, Unavailable
from vigil.features.memory.durable import seed
from vigil.features.memory.snapshot import read_snapshot, write_snapshot
from vigil.features.memory.store import MemoryStore
from vigil.features.open import open_state
from vigil.settings import Settings

START = 1_600_000_000_000


def event(store: MemoryStore, i: int) -> object:
    keys = {"a": f"a{i % 7}", "b": f"b{i % 11}"}
    return store.schema.make({"event_id": i, "ts": START + i * 600_000, "amount": 1.0 + i % 13} | keys)


def fill(store: MemoryStore, first: int, last: int) -> np.ndarray:
    """Events `first` to `last` one by one, every fifth with a label; their features."""
    rows = []
    for i in range(first, last):
        rows.append(store.apply_events([event(store, i)])[0])
        if i % 5 == 0:
            store.feedback([Feedback(i, i % 2)])
    return np.vstack(rows)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """In the block, no file grows beyond so many bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


@pytest.fixture
def expected() -> np.ndarray:
    return fill(MemoryStore(DOMAIN), 0, 300)


def test_state_goes_on_after_a_clean_stop(settings: Settings, expected: np.ndarray) -> None:
    state = open_state(DOMAIN, settings)
    fill(state.store, 0, 200)
    state.close()
    assert sorted(path.name for path in state.folder.iterdir()) == ["lock", "snapshot"]
    again = open_state(DOMAIN, settings)
    assert fill(again.store, 200, 300).tobytes() == expected[200:].tobytes()
    again.close()


def test_a_state_that_was_stopped_before_its_first_event_takes_events(settings: Settings, expected: np.ndarray) -> None:
    open_state(DOMAIN, settings).close()
    again = open_state(DOMAIN, settings)
    assert fill(again.store, 0, 300).tobytes() == expected.tobytes()
    again.close()


def test_a_process_killed_with_sigkill_loses_nothing_it_answered(settings: Settings, expected: np.ndarray) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.features.test_state import DOMAIN, Settings, fill, open_state\n"
        "state = open_state(DOMAIN, Settings(state_dir=Path(sys.argv[1])))\n"
        "for i in range(300):\n    fill(state.store, i, i + 1); print(i, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(settings.state_dir)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    answered = -1
    while answered < 120:
        answered = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    answered = max([answered, *map(int, process.stdout.read().split())])
    process.wait()
    state = open_state(DOMAIN, settings)
    # The answer to the next event may have been on its way: it then counts once, like any repeat.
    assert fill(state.store, 0, 300).tobytes() == expected.tobytes()
    assert answered >= 120
    state.close()


def test_marks_are_stored_with_the_batch_they_were_said_before(settings: Settings) -> None:
    state = open_state(DOMAIN, settings)
    state.store.mark({"events/0": 7, "events/1": 3})
    fill(state.store, 0, 10)
    state.store.mark({"events/0": 9})
    fill(state.store, 10, 20)
    state.store.mark({"events/0": 11})
    state.abandon()
    again = open_state(DOMAIN, settings)
    assert again.store.marks == {"events/0": 9, "events/1": 3}
    again.store.mark({"events/1": 4})
    again.close()
    assert open_state(DOMAIN, settings).store.marks == {"events/0": 9, "events/1": 4}


def test_a_torn_last_entry_is_dropped_and_the_rest_kept(settings: Settings, expected: np.ndarray) -> None:
    state = open_state(DOMAIN, settings)
    fill(state.store, 0, 100)
    journal = state.folder / "journal-0"
    copy = journal.read_bytes()
    state.close()
    (state.folder / "snapshot").unlink()
    journal.write_bytes(copy[:-5])
    again = open_state(DOMAIN, settings)
    assert again.store.state.remembered == 99
    assert fill(again.store, 99, 300).tobytes() == expected[99:].tobytes()
    again.close()


def test_what_a_full_disk_does_not_take_does_not_count_and_can_be_sent_again(
    settings: Settings, expected: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    state, changed = open_state(DOMAIN, settings), threading.Event()
    state.store.watch(changed.set)
    fill(state.store, 0, 5)
    with full_disk((state.folder / "journal-0").stat().st_size + 30):
        for i in 5, 6:  # entities that have not been there
            with pytest.raises(Unavailable, match="journal-0 cannot be written: File too large"):
                state.store.apply_events([event(state.store, i)])
        with pytest.raises(Unavailable):
            state.store.feedback([Feedback(3, 1)])
        assert changed.wait(10)
        assert "journal-0 cannot be written" in state.store.problem
        assert (state.store.state.remembered, state.store.count) == (5, 12)  # nobody new but a5 and b5
        changed.clear()
    assert changed.wait(10)
    assert not state.store.problem
    said = [
        (record.levelname, "cannot be written: File too large; rules decide" in record.message)
        for record in caplog.records
    ]
    assert said == [("ERROR", True), ("WARNING", False)]
    assert fill(state.store, 5, 200).tobytes() == expected[5:200].tobytes()
    state.abandon()
    again = open_state(DOMAIN, settings)
    assert fill(again.store, 200, 300).tobytes() == expected[200:].tobytes()
    again.close()


def test_a_state_that_cannot_write_its_snapshot_keeps_its_journal(settings: Settings, expected: np.ndarray) -> None:
    state = open_state(DOMAIN, settings)
    fill(state.store, 0, 200)
    with full_disk(4096):
        state.close()
    assert sorted(path.name for path in state.folder.iterdir()) == ["journal-0", "lock"]
    again = open_state(DOMAIN, settings)
    assert fill(again.store, 200, 300).tobytes() == expected[200:].tobytes()
    again.close()


def test_only_their_owner_can_read_the_files(settings: Settings) -> None:
    settings.state_dir.chmod(0o755)
    state = open_state(DOMAIN, settings)
    fill(state.store, 0, 5)
    write_snapshot(state.store, state.folder / "export")
    modes = {path.name: path.stat().st_mode & 0o777 for path in state.folder.rglob("*")}
    assert modes == {"lock": 0o600, "journal-0": 0o600, "export": 0o700, "snapshot": 0o600}
    assert (state.folder.stat().st_mode & 0o777, settings.state_dir.stat().st_mode & 0o777) == (0o700, 0o755)
    state.close()


def test_the_journal_is_folded_into_the_snapshot_when_it_grows(tmp_path: Path, expected: np.ndarray) -> None:
    settings = Settings(state_dir=tmp_path, journal_max_bytes=1 << 16)
    state = open_state(DOMAIN, settings)
    fill(state.store, 0, 200)
    for i in range(200, 1200):
        state.store.apply_events([event(state.store, i)])
    deadline = time.monotonic() + 20
    while not (state.folder / "snapshot").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (state.folder / "snapshot").exists()
    state.abandon()
    again = open_state(DOMAIN, settings)
    assert fill(again.store, 1200, 1300).tobytes() == fill(state.store, 1200, 1300).tobytes()
    again.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"no folder")
    with pytest.raises(StateError, match=f"^{tmp_path}/state/.*VIGIL_STATE_DIR must be a folder"):
        open_state(DOMAIN, Settings(state_dir=tmp_path / "state"))


def test_two_processes_cannot_hold_one_state(settings: Settings) -> None:
    state = open_state(DOMAIN, settings)
    with pytest.raises(StateError, match="in use by another process"):
        open_state(DOMAIN, settings)
    state.close()
    open_state(DOMAIN, settings).close()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:0], lambda data: data[:-9], lambda data: data[:99] + b"x" + data[100:]]
)
def test_a_damaged_snapshot_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = MemoryStore(DOMAIN)
    fill(store, 0, 20)
    path = write_snapshot(store, tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StateError, match="checksum"):
        read_snapshot(MemoryStore(DOMAIN), path)


def test_a_snapshot_of_an_earlier_layout_is_refused_and_says_so(tmp_path: Path) -> None:
    path = write_snapshot(MemoryStore(DOMAIN), tmp_path)
    path.write_bytes(b"VIGILST1" + path.read_bytes()[8:])
    with pytest.raises(StateError, match="layout 1, wanted 3: make it anew with vigil train"):
        read_snapshot(MemoryStore(DOMAIN), path)


def test_a_snapshot_of_another_feature_spec_is_refused_with_both_hashes(tmp_path: Path) -> None:
    other = replace(DOMAIN, grace_days=0.25)
    path = write_snapshot(MemoryStore(other), tmp_path)
    with pytest.raises(StateError) as refusal:
        read_snapshot(MemoryStore(DOMAIN), path)
    assert other.spec_hash in str(refusal.value)
    assert DOMAIN.spec_hash in str(refusal.value)


def test_the_journal_reaches_the_disk_while_events_come(tmp_path: Path) -> None:
    state = open_state(DOMAIN, Settings(state_dir=tmp_path, journal_fsync_ms=1))
    fill(state.store, 0, 50)
    assert os.path.getsize(state.folder / "journal-0") > 50 * 64
    state.close()


def test_a_replayed_history_becomes_the_state_only_where_there_is_none_or_it_is_asked_for(settings: Settings) -> None:
    one, other = MemoryStore(DOMAIN), MemoryStore(DOMAIN)
    fill(one, 0, 20)
    fill(other, 0, 30)
    assert seed(one, settings)
    assert not seed(other, settings)
    state = open_state(DOMAIN, settings)
    assert state.store.state.remembered == 20
    with pytest.raises(StateError, match="in use"):
        seed(other, settings, replace=True)
    fill(state.store, 20, 25)
    state.abandon()
    assert seed(other, settings, replace=True)
    again = open_state(DOMAIN, settings)
    assert again.store.state.remembered == 30
    again.close()
