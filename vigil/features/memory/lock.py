"""The lock of a folder of state: one process holds it, and notes in it the highest journal that it forced to disk."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from xxhash import xxh3_64_hexdigest

from vigil.errors import StateError
from vigil.features.memory import files


class Lock:
    """Holds a folder of state until it is closed.

    Args:
        folder: it is made where it is not there.

    Attributes:
        noted: the number of the highest journal that was ever noted; None where none was.

    Raises:
        StateError: where another process holds it, or it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            files.make_folder(folder)
            self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:
            who = f"user {os.getuid()}"
            raise StateError(
                f"{failure.filename}: {failure.strerror}; VIGIL_STATE_DIR must be a folder that {who} owns"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StateError(
                f"{folder} is in use by another process: memory state belongs to one; stop that one, "
                "or give this one a VIGIL_STATE_DIR of its own"
            ) from None
        self.noted = _read(os.pread(self._descriptor, 100, 0))

    def note(self, sequence: int) -> None:
        """Notes, on the disk, that a journal of this number is there.

        Raises:
            OSError: where it cannot be written.
        """
        if sequence != self.noted:
            files.write(self._descriptor, _line(sequence), 0)
            files.sync(self._descriptor)
            self.noted = sequence

    def close(self) -> None:
        """Gives the folder free."""
        files.close(self._descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type[BaseException] | None, failure: object, trace: TracebackType | None) -> None:
        self.close()


def _line(sequence: int) -> bytes:
    number = b"%020d" % sequence
    return b"%s %s\n" % (number, xxh3_64_hexdigest(number).encode())


def _read(line: bytes) -> int | None:
    """The number of a line; None where a power failure, say, has left less than a line."""
    digits = line[:20]
    return int(digits) if digits.isdigit() and line == _line(int(digits)) else None
