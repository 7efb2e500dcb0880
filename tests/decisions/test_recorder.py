"""Laws of recording: everything handed over is written or counted as dropped, and nobody waits for the disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from prometheus_client import REGISTRY

from vigil.decisions.recorder import Recorder
from vigil.observe import metrics
from vigil.settings import Settings

NOW_MS = 1_700_000_000_000


def settings(folder: Path) -> Settings:
    return Settings(state_dir=folder, records_max_bytes=1 << 26)


def counted(outcome: str) -> float:
    metrics.flush()
    return REGISTRY.get_sample_value("vigil_records_total", {"outcome": outcome}) or 0.0


def record(i: int) -> bytes:
    return b'{"event_id":%d,"domain":"payments"}' % i


def test_everything_handed_over_is_there_once_it_is_closed(tmp_path: Path) -> None:
    before = counted("written")
    recorder = Recorder(settings(tmp_path), lambda: NOW_MS)
    for start in range(0, 20_000, 10):
        recorder.put(list(range(start, start + 10)), [record(i) for i in range(start, start + 10)])
    recorder.close()
    assert list(recorder.archive.lines()) == [record(i) for i in range(20_000)]
    assert counted("written") - before == 20_000


def test_a_disk_that_is_behind_costs_records_not_memory(tmp_path: Path) -> None:
    behind, go_on = threading.Event(), threading.Event()

    def clock_ms() -> int:
        behind.set()
        go_on.wait(30)
        return NOW_MS

    before = counted("too_slow")
    recorder = Recorder(settings(tmp_path), clock_ms, most_waiting_bytes=1000)
    assert behind.wait(30)
    for i in range(500):
        recorder.put([i], [record(i)])
    go_on.set()
    recorder.close()
    kept = len(list(recorder.archive.lines()))
    assert 1000 <= kept * len(record(100)) < 1100
    assert kept + counted("too_slow") - before == 500


def test_a_folder_that_cannot_be_written_costs_records_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "decisions").write_text("in the way")
    before = counted("failed")
    recorder = Recorder(settings(tmp_path), lambda: NOW_MS)
    recorder.put([1, 2], [record(1), record(2)])
    while counted("failed") - before < 2:
        os.sched_yield()
    (tmp_path / "decisions").unlink()
    recorder.put([3], [record(3)])
    recorder.close()
    assert list(recorder.archive.lines()) == [record(3)]
    assert counted("failed") - before == 2
