"""What became of the requests of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

OK, REFUSED = 200, 429


@dataclass(frozen=True)
class Outcome:
    """Requests a second: sent (or due), answered well, refused with 429, failed; milliseconds of those answered well.

    What got no answer at all has failed.
    """

    sent_per_s: float
    good_per_s: float
    refused_per_s: float
    failed_per_s: float
    p50_ms: float
    p99_ms: float


def outcome(
    statuses: npt.NDArray[np.int64], took_ms: npt.NDArray[np.float64], seconds: float, sent: int | None = None
) -> Outcome:
    """A run of `seconds` by the HTTP status and the milliseconds of each answer, `sent` requests (default: as many)."""
    sent = len(statuses) if sent is None else sent
    good = statuses == OK
    well, refused = int(good.sum()), int((statuses == REFUSED).sum())
    p50, p99 = np.percentile(took_ms[good], (50, 99)) if well else (np.inf, np.inf)
    failed = sent - well - refused
    return Outcome(sent / seconds, well / seconds, refused / seconds, failed / seconds, float(p50), float(p99))
