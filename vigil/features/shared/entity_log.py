"""An entity's log: how its records lie outside this process, and how the kernel's state is made of it.

A log is a row of entries in order of arrival, each a record of the kernel and a mark in int64 words: `(ts_ms, tag,
numbers..., carried..., mark)`. The mark is `token << 1 | what`: `what` is RECORD or RELABEL (the record of this time
and tag has the label in this tag), and the token is random for each write. So a log's last eight bytes are its
version: no two contents of a log share it.

Reading a log is running it (`vigil.features.compiled.state.KernelState.run_logs`): records go where the kernel
would put them (by time, ties in order of arrival, the newest `most_records`), a record that is there already is passed
over, and so is a label without its record.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vigil.features.compiled.layout import RECORD, RELABEL, TAG, TS
from vigil.features.compiled.state import tag

Words = npt.NDArray[np.int64]


def entries(records: Words, token: int, what: Words | int = RECORD) -> Words:
    """Entries of a log, int64 [n, width + 1], for records [n, width], all written with `token`."""
    marks = np.broadcast_to(np.asarray(token << 1 | np.asarray(what, np.int64), np.int64), len(records))
    return np.column_stack((records, marks))


def relabel_entry(ts_ms: int, key: int, label: int, width: int, token: int) -> bytes:
    """The entry that gives the record of an event a label."""
    entry = np.zeros(width + 1, np.int64)
    entry[TS], entry[TAG], entry[width] = ts_ms, tag(key, label), token << 1 | RELABEL
    return entry.tobytes()
