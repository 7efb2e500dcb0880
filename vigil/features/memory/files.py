"""Operations on the files of a state. Only this module touches the disk, so that tests can make each operation fail."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path

from vigil import host

Data = bytes | memoryview


def make_folder(path: Path) -> None:
    """Creates a folder that only its owner can enter, and those above it. One that is there is closed to others."""
    if not path.is_dir():
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    elif path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
        with suppress(OSError):
            path.chmod(0o700)


def create(path: Path) -> int:
    """The descriptor of an empty file that only its owner can read; an earlier file of this name is emptied."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def open_file(path: Path) -> int:
    """The descriptor of a file that exists, to read and write."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def write(descriptor: int, data: Data, offset: int) -> None:
    """Writes all of `data` at an offset. After an OSError, a part of it may be there."""
    done = os.pwrite(descriptor, data, offset)
    while done < len(data):
        count = os.pwrite(descriptor, memoryview(data)[done:], offset + done)
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += count


def truncate(descriptor: int, size: int) -> None:
    """Cuts a file off at `size` bytes."""
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """Returns once a file's content is on its disk."""
    host.sync(descriptor)


def sync_path(path: Path) -> None:
    """Returns once the content of a file that is not open is on its disk."""
    descriptor = open_file(path)
    try:
        sync(descriptor)
    finally:
        close(descriptor)


def sync_folder(path: Path) -> None:
    """Returns once the names of a folder's files are on its disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as failure:
        if failure.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that do not know it for folders
            raise
    finally:
        os.close(descriptor)


def close(descriptor: int) -> None:
    """Gives a descriptor free."""
    os.close(descriptor)


def rename(path: Path, to: Path) -> None:
    """Gives a file another name, in place of the file that had it."""
    os.replace(path, to)


def remove(path: Path) -> None:
    """Removes a file."""
    path.unlink(missing_ok=True)


def map_file(path: Path) -> memoryview:
    """What a file holds, without taking memory for it."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
