"""Laws of the state on a disk that fails, loses its power, or gives back something else than was written."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.features.disk import Disk, after_power_failure
from tests.features.every_feature import DOMAIN
from tests.features.test_state import event, fill
from vigil.domains.schema import Feedback
from vigil.errors import StateError, Unavailable
from vigil.features.memory.durable import State
from vigil.features.memory.journal import Reader, journals
from vigil.features.memory.lock import Lock
from vigil.features.memory.recover import recover
from vigil.features.memory.restore import Restored
from vigil.features.memory.store import MemoryStore
from vigil.settings import Settings

EVENTS = 120
MORE = 20  # events by which a state that was restored is compared
RANDOM_FAULTS = 200


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return fill(MemoryStore(DOMAIN), 0, EVENTS + MORE)


def small(folder: Path, fsync_ms: int = 1) -> Settings:
    """Settings with which a journal holds about 30 events."""
    return Settings(state_dir=folder, journal_fsync_ms=fsync_ms).model_copy(update={"journal_max_bytes": 5000})


def folder_in(state_dir: Path) -> Path:
    return state_dir / "features" / DOMAIN.name


def insist(state: State, do: Callable[[MemoryStore], Any]) -> Any:
    """Does it again each time that the disk is back."""
    changed = threading.Event()
    state.store.watch(changed.set)
    while True:
        changed.clear()
        try:
            return do(state.store)
        except Unavailable:
            while state.store.problem and changed.wait(0.05):
                changed.clear()


def run(settings: Settings, disk: Disk, expected: np.ndarray, restarts: tuple[int, ...] = ()) -> None:
    """Opens a state, has it count all events, each with the features it should have, and closes it.

    Args:
        restarts: events before which the process is killed.
    """
    with disk.beneath():
        try:
            state = State(DOMAIN, settings)
        except StateError:
            assert disk.failed
            state = State(DOMAIN, settings)
        for i in range(EVENTS):
            if i in restarts:
                state.abandon()
                state = State(DOMAIN, settings)
            rows, _ = insist(state, lambda store, i=i: store.apply_events([event(store, i)]))
            assert rows.tobytes() == expected[i].tobytes(), i
            disk.answered(i)
            if i % 5 == 0:
                insist(state, lambda store, i=i: store.feedback([Feedback(i, i % 2)]))
        state.close()


def check_prefix(store: MemoryStore, least: int, expected: np.ndarray) -> int:
    """Fails where a state does not equal that after some first events, at least `least`; how many."""
    held = store.state.remembered
    assert least <= held <= EVENTS
    if held and (held - 1) % 5 == 0:  # the label after it may be lost
        store.feedback([Feedback(held - 1, (held - 1) % 2)])
    last = min(held + MORE, EVENTS + MORE)
    assert fill(store, held, last).tobytes() == expected[held:last].tobytes()
    return held


def failing(tmp_path: Path) -> list[int]:
    """Operations of a run that are to fail, one in each run: all but most of the appends, which are alike."""
    disk = Disk()
    run(small(tmp_path / "dry"), disk, fill(MemoryStore(DOMAIN), 0, EVENTS + MORE))
    done = [op for op in disk.ops if op.name != "answered"]
    appends = 0
    found = []
    for i, op in enumerate(done):
        if op.name == "write" and op.path.name.startswith("journal-"):
            appends += 1
            if appends % 10:
                continue
        found.append(i)
    return found


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_whichever_operation_fails_once_nothing_is_lost_or_counted_twice(
    tmp_path: Path, expected: np.ndarray, number: int
) -> None:
    chosen = failing(tmp_path)
    for at in chosen[:: 1 + len(chosen) // 60]:
        where = tmp_path / str(at)
        run(small(where), Disk(at, number=number), expected)
        again = State(DOMAIN, small(where))
        check_prefix(again.store, EVENTS, expected)
        again.abandon()
        shutil.rmtree(where)


def test_after_a_power_failure_the_state_is_a_prefix_with_all_that_was_on_the_disk(
    tmp_path: Path, expected: np.ndarray
) -> None:
    disk, rng = Disk(), np.random.default_rng(15)
    run(small(tmp_path / "run"), disk, expected, (25, 26, 70, 100))
    folder = folder_in(tmp_path / "run")
    rotations = sum(op.name == "create" and op.path.name.startswith("journal-") for op in disk.ops)
    assert rotations > 1
    for at in range(len(disk.ops) + 1):
        for variant in range(2):
            to = folder_in(tmp_path / f"{at}-{variant}")
            to.parent.mkdir(parents=True)
            after_power_failure(disk.ops, at, folder, to, rng)
            with Lock(to) as lock:
                held = check_prefix(Restored(to, DOMAIN, noted=lock.noted).store, promised(disk, at), expected)
            if at % 10 == 0:  # once it has gone on, it is as any other
                State(DOMAIN, small(tmp_path / f"{at}-{variant}")).abandon()
                with Lock(to) as lock:
                    assert Restored(to, DOMAIN, noted=lock.noted).store.state.remembered == held
            shutil.rmtree(tmp_path / f"{at}-{variant}")


def promised(disk: Disk, at: int) -> int:
    """How many of the first events must be there after the first `at` operations: their entries were synced."""
    written: list[tuple[Path, int]] = []
    last: tuple[Path, int] = Path(), 0
    for i, op in enumerate(disk.ops[:at]):
        if op.name == "write" and op.path.name.startswith("journal-"):
            last = op.path, i
        elif op.name == "answered":
            written.append(last)
    syncs: dict[Path, int] = {}
    for op in disk.ops[:at]:
        if op.name == "sync":
            syncs[op.path] = max(syncs.get(op.path, 0), op.began)
    on_disk = [syncs.get(path, 0) > i for path, i in written]
    return len(on_disk) - on_disk[::-1].index(True) if True in on_disk else 0


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state of a snapshot and several journals, left by a killed process: nothing could be folded."""
    state_dir = tmp_path_factory.mktemp("several")
    state = State(DOMAIN, small(state_dir))
    fill(state.store, 0, 20)
    state.close()
    disk = Disk(chosen=lambda name, path: path.name == "snapshot.new" and name == "create")
    disk._turn = lambda: True  # type: ignore[method-assign]
    with disk.beneath():
        state = State(DOMAIN, small(state_dir))
        for i in range(20, EVENTS):
            fill(state.store, i, i + 1)
            while state._begun is not None or (state._folding and state._folding.is_alive()):
                state._keeper.join(0.001)
        state.abandon()
    assert len(journals(state.folder)) > 2
    return state_dir


def damage(folder: Path, rng: np.random.Generator) -> tuple[str, Path, int]:
    """Damages one file, or loses, doubles or exchanges some: what, the file, and the first byte that is not its own."""
    found = [folder / "snapshot", folder / "lock", *journals(folder).values()]
    path, other = (found[i] for i in rng.choice(len(found), 2, replace=False))
    data = path.read_bytes()
    kind = ["flip", "flip", "cut", "lose", "double", "swap", "append", "zero"][rng.integers(8)]
    at = int(rng.integers(len(data)))
    if kind == "flip":
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :])
    elif kind == "cut":
        path.write_bytes(data[:at])
    elif kind == "zero":
        path.write_bytes(data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :])
    elif kind == "lose":
        path.unlink()
    elif kind == "append":
        path.write_bytes(data + data[at : at + 300])
    elif kind == "double":
        shutil.copy(path, folder / f"journal-{max(journals(folder)) + 1}" if rng.random() < 0.5 else other)
    else:
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    return kind, path, at


def restored(folder: Path) -> tuple[MemoryStore | None, str]:
    """The state of a folder, or why it is refused."""
    with Lock(folder) as lock:
        try:
            return Restored(folder, DOMAIN, noted=lock.noted).store, ""
        except StateError as refusal:
            return None, str(refusal)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_is_refused_or_costs_no_more_than_the_tail(
    tmp_path: Path, several: Path, expected: np.ndarray, seed: int
) -> None:
    for number in range(RANDOM_FAULTS // 4):
        rng = np.random.default_rng([seed, number])
        where = tmp_path / str(number)
        shutil.copytree(several, where)
        folder = folder_in(where)
        last = journals(folder)[max(journals(folder))]
        whole = Reader(last)
        ends = [(whole.end, whole.number), *((whole.end, whole.number) for _ in whole)]
        kind, path, at = damage(folder, rng)
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        store, refusal = restored(folder)
        if store is None:
            assert "nothing was changed" in refusal
            assert {file.name: file.read_bytes() for file in folder.iterdir()} == before or path.name == "lock"
            report = recover(DOMAIN, small(where))
            assert report
            assert {file.name for file in report.kept.iterdir()} <= set(before)
            again = State(DOMAIN, small(where))
            assert again.store.state.remembered == report.remembered <= EVENTS
            fill(again.store, EVENTS, EVENTS + MORE)
            again.close()
        else:
            held = check_prefix(store, 20, expected)
            if held < EVENTS:
                assert (path, kind in ("flip", "cut", "zero")) == (last, True)
                kept = max(number for end, number in ends if end <= at) if at >= ends[0][0] else 0
                place = Restored(folder, DOMAIN).place
                assert place.entries >= kept
                assert kind == "cut" or ends[-1][1] - kept <= 1 or at + 64 > ends[-2][0]
        shutil.rmtree(where)
