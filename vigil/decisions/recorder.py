"""Decision records of a service, written while it goes on: it hands them over, a thread brings them to disk."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from vigil.decisions.archive import Archive, Writer, folder
from vigil.observe import metrics
from vigil.settings import Settings

logger = logging.getLogger(__name__)

# What comes within this time is written together; a record may be that late.
GATHER_S = 0.05
TIDY_S = 3600.0
MOST_WAITING_BYTES = 32 << 20
EventIds = list[str | int]


class Recorder:
    """Takes records from one thread, writes them in another. Nothing about the disk reaches who hands over.

    What the disk does not take is dropped, counted (`vigil_records_total`) and said in the log; it is tried again
    with what comes next.

    Args:
        settings: where to, and how long and how much is kept.
        clock_ms: gives the time, epoch milliseconds UTC.
        most_waiting_bytes: of records that the disk is behind with; beyond them, records are dropped.
    """

    def __init__(
        self, settings: Settings, clock_ms: Callable[[], int], most_waiting_bytes: int = MOST_WAITING_BYTES
    ) -> None:
        self.archive = Archive(folder(settings))
        self._settings, self._clock_ms = settings, clock_ms
        self._most_waiting_bytes = most_waiting_bytes
        self._waiting: deque[tuple[EventIds, list[bytes], int]] = deque()
        # Each of the two is changed in one thread only, so their difference needs no lock.
        self._handed_bytes = self._taken_bytes = 0
        self._some, self._stopping = threading.Event(), threading.Event()
        self._failing = False
        self._writer: Writer | None = None
        self._written, self._too_slow, self._failed = (
            metrics.RECORDS.labels(outcome) for outcome in ("written", "too_slow", "failed")
        )
        self._thread = threading.Thread(target=self._run, name="vigil-records", daemon=True)
        self._thread.start()

    def put(self, event_ids: EventIds, records: list[bytes]) -> None:
        """Hands over records, JSON, of as many events."""
        if self._handed_bytes - self._taken_bytes > self._most_waiting_bytes:
            self._too_slow.inc(len(records))
            logger.warning("the disk is behind: %d decision records were dropped", len(records))
            return
        size = sum(map(len, records))
        self._waiting.append((event_ids, records, size))
        self._handed_bytes += size
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """What was handed over is on disk, or was dropped."""
        self._stopping.set()
        self._some.set()
        self._thread.join()

    def _run(self) -> None:
        self._try(lambda: self._open().retain(self._clock_ms()), 0)
        while not self._stopping.is_set():
            if not self._some.wait(TIDY_S):
                self._try(lambda: self._open().retain(self._clock_ms()), 0)
                continue
            self._stopping.wait(GATHER_S)
            self._some.clear()  # first: what comes from here on sets it again
            self._write()
        self._write()
        if self._writer:
            self._try(self._writer.close, 0)

    def _write(self) -> None:
        event_ids: EventIds = []
        records: list[bytes] = []
        size = 0
        while self._waiting:
            more_ids, more, more_bytes = self._waiting.popleft()
            event_ids += more_ids
            records += more
            size += more_bytes
        if records:
            self._try(lambda: self._append(event_ids, records), len(records))
        self._taken_bytes += size

    def _append(self, event_ids: EventIds, records: list[bytes]) -> None:
        self._open().append(event_ids, records, self._clock_ms())
        self._written.inc(len(records))

    def _open(self) -> Writer:
        if self._writer is None:
            settings = self._settings
            self._writer = Writer(self.archive, settings.records_days, settings.records_max_bytes)
        return self._writer

    def _try(self, act: Callable[[], object], count: int) -> None:
        try:
            act()
        except OSError as failure:
            self._failed.inc(count)
            self._failing = True
            logger.error("decision records cannot be written, %d were dropped: %s", count, failure)
        else:
            if self._failing and count:
                self._failing = False
                logger.warning("decision records are written again")
