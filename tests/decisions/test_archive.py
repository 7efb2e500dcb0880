"""Laws of the store of decision records: what was written is found, whoever is killed, until it is too old."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from vigil.decisions import archive
from vigil.decisions.archive import SEGMENT_MS, Archive, Writer
from vigil.decisions.segment import INDEX, SORTED, SORTING, Segment

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
MIB = 1 << 20
KILLED = """
import sys
from pathlib import Path
from tests.decisions.test_archive import NOW_MS, record
from vigil.decisions.archive import Archive, Writer
writer, i = Writer(Archive(Path(sys.argv[1])), 30, 1 << 30), 0
while True:
    ids = list(range(i, i + 50))
    writer.append(ids, [record(each) for each in ids], NOW_MS)
    i += 50
    print(i, flush=True)
"""


def record(event_id: str | int, domain: str = "payments", size: int = 0, mark: int = 0) -> bytes:
    return msgspec.json.encode({"event_id": event_id, "domain": domain, "mark": mark, "more": "x" * size})


def put(writer: Writer, event_ids: Sequence[str | int], now_ms: int = NOW_MS, size: int = 0, mark: int = 0) -> None:
    writer.append(list(event_ids), [record(event_id, size=size, mark=mark) for event_id in event_ids], now_ms)


def found(store: Archive, event_id: str, domain: str = "") -> bytes | None:
    it = store.find(event_id, domain)
    return it.record if it else None


@pytest.fixture
def store(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "decisions")


def test_every_record_is_found_whether_its_segment_is_open_or_closed(
    store: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SEGMENT_BYTES", 20_000)
    writer = Writer(store, 30, 1 << 30)
    random = np.random.default_rng(2)
    for start in range(0, 1000, 40):
        put(writer, [f"e{i}" for i in range(start, start + 40)], size=int(random.integers(0, 60)))
    assert len(store.segments()) > 2
    assert len(list(store.root.glob(f"0/*{INDEX}"))) == 1
    for i in range(1000):
        line = found(store, f"e{i}")
        assert line is not None
        assert msgspec.json.decode(line)["event_id"] == f"e{i}"
    assert found(store, "e1000") is None
    assert [msgspec.json.decode(line)["event_id"] for line in store.lines()] == [f"e{i}" for i in range(1000)]


def test_nothing_is_found_where_nothing_was_written(store: Archive) -> None:
    assert found(store, "e1") is None
    assert list(store.lines()) == []


def test_of_an_event_decided_several_times_the_last_record_is_found(store: Archive) -> None:
    first, second = Writer(store, 30, 1 << 30), Writer(store, 30, 1 << 30)
    put(second, [7], NOW_MS + 1, mark=1)
    put(first, [7, 8, 7], NOW_MS + 2, mark=2)
    put(second, ["8"], NOW_MS + 3, mark=3)
    assert found(store, "7") == record(7, mark=2)
    assert found(store, "8") == record("8", mark=3)
    put(first, [7], NOW_MS + 2 + SEGMENT_MS, mark=4)
    assert found(store, "7") == record(7, mark=4)


def test_event_ids_of_two_domains_are_told_apart(store: Archive) -> None:
    writer = Writer(store, 30, 1 << 30)
    writer.append(["e"], [record("e", "payments")], NOW_MS)
    writer.append(["e"], [record("e", "telemetry")], NOW_MS + 1)
    assert found(store, "e", "payments") == record("e", "payments")
    assert found(store, "e") == record("e", "telemetry")
    assert found(store, "e", "parcels") is None


def test_a_killed_process_leaves_records_that_are_found_before_and_after_the_next_one_starts(store: Archive) -> None:
    command = [sys.executable, "-c", KILLED, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while int(line := process.stdout.readline()) < 2000:
            assert line
        process.send_signal(signal.SIGKILL)
        count = int([line, *process.stdout.read().split()][-1])
    (path,) = store.segments()
    with path.open("ab") as file:
        file.write(b'{"event_id": "torn", "doma')
    for _ in range(2):
        assert all(found(store, str(i)) == record(i) for i in range(0, count, 7))
        assert found(store, "torn") is None
        Writer(store, 30, 1 << 30).close()
    assert not list(store.root.glob(f"*/*{INDEX}"))
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(("lines", "known"), [(10, 4), (10, 0), (4, 10), (0, 10), (0, 0), (10, 10)])
def test_records_without_an_entry_get_one_and_entries_without_a_record_go(
    store: Archive, lines: int, known: int
) -> None:
    writer = Writer(store, 30, 1 << 30)
    put(writer, range(10))
    (path,) = store.segments()
    whole, entries = path.read_bytes(), path.with_suffix(INDEX).read_bytes()
    torn = store.root / "1" / path.name
    torn.parent.mkdir()
    torn.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines]) + b"half")
    torn.with_suffix(INDEX).write_bytes(entries[: known * len(entries) // 10] + b"half an entry")
    writer.close()
    path.unlink()
    held = Writer(store, 30, 1 << 30)
    Writer(store, 30, 1 << 30).close()
    held.close()
    assert torn.read_bytes() == b"".join(whole.splitlines(keepends=True)[:lines])
    assert [found(store, str(i)) is not None for i in range(10)] == [i < lines for i in range(10)]


def test_records_that_are_mended_are_as_old_as_they_were(store: Archive) -> None:
    writer = Writer(store, 30, 1 << 30)
    put(writer, [1, 2])
    writer.close()
    (path,) = store.segments()
    path.with_suffix(SORTED).unlink()  # as if it had been killed before it wrote an index
    with path.open("ab") as file:
        file.write(b"half")
    os.utime(path, (NOW_MS / 1000, NOW_MS / 1000))
    Writer(store, 30, 1 << 30).close()
    places = [store.find(event_id) for event_id in ("1", "2")]
    assert [place and place.written_ms for place in places] == [NOW_MS, NOW_MS]
    assert path.stat().st_mtime == NOW_MS / 1000


@pytest.mark.parametrize("left", [INDEX, SORTED, SORTING])
def test_what_a_killed_removal_has_left_stops_nobody_and_goes(store: Archive, left: str) -> None:
    writer = Writer(store, 30, 1 << 30)
    put(writer, [1])
    writer.close()
    (path,) = store.segments()
    path.with_suffix(SORTED).rename(path.with_suffix(left))
    path.unlink()
    again = Writer(store, 30, 1 << 30)
    put(again, [2], NOW_MS + 1)
    assert found(store, "1") is None
    assert found(store, "2") == record(2)
    assert not path.with_suffix(left).exists()


@pytest.mark.parametrize("gone", ["segment", "folder"])
def test_a_process_whose_files_were_removed_goes_on_in_new_ones(store: Archive, gone: str) -> None:
    writer = Writer(store, 30, 1 << 30)
    put(writer, [1])
    if gone == "folder":
        shutil.rmtree(store.root)
    else:
        store.retain(NOW_MS, 0)
    put(writer, [2])
    assert found(store, "1") is None
    assert found(store, "2") == record(2)
    other = Writer(store, 30, 1 << 30)
    put(other, [3])
    assert {path.parent.name for path in store.segments()} == {"0", "1"}
    assert found(store, "2") == record(2)


def test_a_clock_that_goes_back_costs_no_record(store: Archive) -> None:
    for days in (0, -2, -1):
        writer = Writer(store, 30, 1 << 30)
        put(writer, [f"day {days}"], NOW_MS + days * DAY_MS)
        put(writer, [f"and {days}"], NOW_MS + days * DAY_MS - 5000)
        writer.close()
    assert all(found(store, f"{word} {days}") for word in ("day", "and") for days in (0, -2, -1))
    assert len(list(store.lines())) == 6


def test_a_record_that_a_power_failure_has_torn_is_not_found(store: Archive) -> None:
    writer = Writer(store, 30, 1 << 30)
    put(writer, [1, 2])
    (path,) = store.segments()
    with path.open("r+b") as file:
        file.write(bytes(len(record(1))))
    assert found(store, "1") is None
    assert found(store, "2") == record(2)


def test_an_index_that_cannot_be_made_leaves_no_records_behind(tmp_path: Path) -> None:
    (tmp_path / f"{NOW_MS}{INDEX}").mkdir()
    with pytest.raises(IsADirectoryError):
        Segment(tmp_path, NOW_MS)
    assert [path.suffix for path in tmp_path.iterdir()] == [INDEX]


def test_what_is_older_than_the_days_is_removed(store: Archive) -> None:
    writer = Writer(store, 2, 1 << 30)
    for day in range(4):
        now_ms = NOW_MS + day * DAY_MS
        put(writer, [f"day {day}"], now_ms)
        os.utime(store.segments()[-1], (now_ms / 1000, now_ms / 1000))
    assert [found(store, f"day {day}") is not None for day in range(4)] == [False, True, True, True]
    writer.retain(NOW_MS + 9 * DAY_MS)
    assert store.segments() == []
    put(writer, ["later"], NOW_MS + 9 * DAY_MS)
    assert found(store, "later")


def test_all_processes_together_stay_under_the_bytes_and_the_oldest_go_first(store: Archive) -> None:
    writers = [Writer(store, 30, MIB), Writer(store, 30, MIB)]
    for i in range(4000):
        put(writers[i % 2], [i], NOW_MS + i, size=1000)
    taken = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    assert MIB / 2 < taken <= MIB + MIB // 8
    there = [found(store, str(i)) is not None for i in range(4000)]
    assert there[-1]
    assert not there[0]
    assert 400 < sum(there) < 1100


def test_two_processes_do_not_write_to_one_folder(store: Archive) -> None:
    first, second = Writer(store, 30, 1 << 30), Writer(store, 30, 1 << 30)
    put(first, [1])
    put(second, [2])
    assert {path.parent.name for path in store.segments()} == {"0", "1"}
    first.close()
    put(Writer(store, 30, 1 << 30), [3])
    assert sorted(path.parent.name for path in store.segments()) == ["0", "0", "1"]
    assert all(found(store, str(i)) for i in (1, 2, 3))


def test_what_the_disk_does_not_take_is_not_there_in_part(store: Archive) -> None:
    writer = Writer(store, 30, 1 << 30)
    put(writer, [1])
    (path,) = store.segments()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            put(writer, [2, 3, 4], size=80)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == record(1) + b"\n"
    put(writer, [5])
    assert list(store.lines()) == [record(1), record(5)]
    assert found(store, "5") == record(5)
