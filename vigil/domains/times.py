"""Between which times an event may lie, and what is said of one that does not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from vigil.errors import InvalidEvent

LEAST_MS = 946_684_800_000  # 2000-01-01T00:00:00Z: nothing that is scored is older
MOST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
# What a time was meant as, where a caller has mistaken the unit: milliseconds in one of it.
UNITS = (("seconds", 1000.0), ("microseconds", 1e-3), ("nanoseconds", 1e-6))


class Times(NamedTuple):
    """Bounds of event times, epoch milliseconds UTC, both included.

    Attributes:
        earliest_ms, latest_ms: the bounds.
        newest_ms: of the events that have counted, from which the earliest is reckoned; 0: there is none.
    """

    earliest_ms: int = 0
    latest_ms: int = MOST_MS
    newest_ms: int = 0

    @property
    def however_late(self) -> Times:
        """The same without the bound that the newest event sets."""
        return self._replace(earliest_ms=LEAST_MS)

    def refusal(self, ts_ms: int, at: str = "") -> InvalidEvent | None:
        """Why an event of this time is refused; None where it is not.

        Args:
            ts_ms: its time.
            at: where it stood, as in InvalidEvent.
        """
        if self.earliest_ms <= ts_ms <= self.latest_ms:
            return None
        if ts_ms > self.latest_ms:
            wanted = f"epoch milliseconds up to {shown(self.latest_ms)}"
            if self.latest_ms < MOST_MS:
                wanted += ", which is VIGIL_MAX_FUTURE_S after now"
        elif ts_ms < LEAST_MS:
            wanted = f"epoch milliseconds from {shown(LEAST_MS)} on"
        else:
            wanted = (
                f"epoch milliseconds from {shown(self.earliest_ms)} on, which is VIGIL_MAX_PAST_S before the newest "
                f"event, of {shown(self.newest_ms)}"
            )
        for unit, factor in UNITS:
            if max(self.earliest_ms, LEAST_MS) / factor <= ts_ms <= self.latest_ms / factor:
                wanted += f" ({unit}, not milliseconds?)"
        return InvalidEvent("ts", _Read(ts_ms), wanted, at)


ANY_TIME = Times()


class _Read(int):
    """A time as it came, and as what it was read."""

    def __repr__(self) -> str:
        return f"{int(self)} ({shown(self)})"


def shown(ts_ms: int) -> str:
    """A time as a person reads it, to the second."""
    if not -62_135_596_800_000 <= ts_ms <= MOST_MS:  # years of four digits, from 1 on
        return "no date"
    return f"{datetime.fromtimestamp(ts_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
