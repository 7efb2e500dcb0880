"""A chain of audit lines on disk: it finds every change of them, and goes on where a process ended.

Files under `{VIGIL_STATE_DIR}/audit/`: a folder for each process that writes at the same time (`0`, `1`, ...; with
VIGIL_AUDIT_KEY_FILE `0-` and the key's id). It holds one chain: files named by the number of their first line, `head`
and `lock`. A later process continues a chain that no process holds. Each line holds the hash of the line before. The
head says how many lines are on disk, and seals the last one. A start line repeats the heads of the other chains.

A change, a missing line, another order or an insertion breaks the chain; a cut at the end contradicts the head.
The hashes are SHA-256. Whoever may write to the folder can compute them anew and forge a whole log, so keep a copy
elsewhere, or set a key: the hashes are HMAC-SHA-256 then, and only a process that reads the key can forge. In either
case a log can be put back to an earlier state with its head, as from a backup, unless another chain's start line has
seen more; and the last lines before a power failure may be missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from vigil import host

logger = logging.getLogger(__name__)

MOST_CHAINS = 256
FILE_BYTES = 16 << 20
GENESIS = "0" * 64
NAMES = ("who", "what", "from", "target", "result")
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)
Seal = Callable[[bytes], str]
Entry = tuple[int, tuple[str, ...]]  # time, epoch milliseconds, and texts as NAMES has them


class Line(msgspec.Struct, rename={"origin": "from"}, forbid_unknown_fields=True):
    """One line. `n` counts in the chain, `seen` of a start line are the heads of the other chains."""

    n: int
    ts: str
    who: str
    what: str
    origin: str
    target: str
    result: str
    prev: str
    seen: dict[str, tuple[int, str]] = {}


class Head(msgspec.Struct):
    """The random id of a chain, how many lines it has on disk, and the seal of the last."""

    id: str
    lines: int
    seal: str


class Broken(Exception):
    """A chain that is not whole: where, and why."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}" if line else f"{path}: {why}")


class Mark(NamedTuple):
    """What the head, or another chain, has seen: so many lines, and their seal."""

    lines: int
    seal: str
    by: str


@dataclass
class Found:
    """What a chain holds as far as it was read: files, lines, times of the first and the last, bytes torn behind it.

    `hashed` is the hash of the last line, `size` the bytes of lines in the last file.
    """

    files: list[Path]
    hashed: str
    lines: int = 0
    first: str = ""
    last: str = ""
    size: int = 0
    torn: int = 0


decode = msgspec.json.Decoder(Line).decode
_head = msgspec.json.Decoder(Head)


class Chain:
    """Appends to the chain of one folder, which it holds. `open` finds one that is free and whole."""

    def __init__(self, path: Path, lock: BinaryIO, key: bytes, file_bytes: int) -> None:
        self._path, self._lock, self._file_bytes = path, lock, file_bytes
        self._seal = sealed_by(key)
        if not _files(path) and not (path / "head").exists():
            fresh = os.urandom(16).hex()
            self._write_head(Head(fresh, 0, head_seal(self._seal, fresh, 0, GENESIS)))
        head = read_head(path)
        self._id = head.id
        found = walk(path, head, self._seal, resume=True)
        self._lines, self._hashed = found.lines, found.hashed
        self._size, self.torn = found.size, found.torn
        name = found.files[-1] if found.files else path / f"{1:012}.jsonl"
        self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(self._file, self._size)

    @classmethod
    def open(cls, root: Path, key: bytes, file_bytes: int, clock_ms: Callable[[], int]) -> Chain:
        """The first chain that no process holds and that is whole, with a start line.

        Raises:
            OSError: where there is none, or nothing can be written.
        """
        ending = f"-{key_id(key)}" if key else ""
        for number in range(MOST_CHAINS):
            path = root / f"{number}{ending}"
            with ExitStack() as opened:
                try:
                    path.mkdir(mode=0o700, parents=True, exist_ok=True)
                    lock = opened.enter_context((path / "lock").open("ab"))
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    chain = cls(path, lock, key, file_bytes)
                except (BlockingIOError, PermissionError):  # of another process, or another user
                    continue
                except Broken as failure:  # stays as it is: evidence
                    logger.error("the audit log is damaged: %s", failure)
                    continue
                opened.callback(os.close, chain._file)
                chain.start(root, clock_ms())
                opened.pop_all()
                return chain
        raise OSError(f"{root}: {MOST_CHAINS} chains are in use, damaged or of other users")

    def start(self, root: Path, now_ms: int) -> None:
        """Writes the genesis of a new chain, and the start line of this process."""
        lines: list[Entry] = [] if self._lines else [(now_ms, ("vigil", "genesis", "", self._id, "ok"))]
        if self.torn:
            lines.append((now_ms, ("vigil", "torn", "", "", f"dropped {self.torn} bytes of a torn line")))
        lines.append((now_ms, ("vigil", "start", platform.node(), f"pid {os.getpid()}", "ok")))
        seen = {}
        for path in chains(root):
            with suppress(Broken):
                if path != self._path and (head := read_head(path)).lines:
                    seen[path.name] = head.lines, head.seal
        self.append(lines, seen)

    def append(self, entries: list[Entry], seen: dict[str, tuple[int, str]] | None = None) -> None:
        """Writes entries to disk, all or none.

        Args:
            entries: their times, epoch milliseconds, and texts.
            seen: heads of other chains, for the last of them.

        Raises:
            OSError: as on a full disk.
        """
        if not entries:
            return
        if self._size >= self._file_bytes:
            self._next_file()
        lines, hashed, number = [], self._hashed, self._lines
        for now_ms, texts in entries:
            number += 1
            said: dict[str, Any] = {"n": number, "ts": timestamp(now_ms)}
            # JSON escapes what is not printable ASCII; bytes that were no UTF-8 are escaped here.
            plain = (text.encode(errors="backslashreplace").decode() for text in texts)
            said |= zip(NAMES, plain, strict=True)
            if seen and number == self._lines + len(entries):
                said["seen"] = seen
            line = json.dumps(said | {"prev": hashed}, separators=(",", ":")).encode()
            lines.append(line + b"\n")
            hashed = self._seal(line)
        data = b"".join(lines)
        os.ftruncate(self._file, self._size)  # what an earlier failure may have left
        try:
            _write_all(self._file, data)
            host.sync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._lines, self._hashed, self._size = number, hashed, self._size + len(data)
        self._write_head(Head(self._id, number, head_seal(self._seal, self._id, number, hashed)))

    def close(self) -> None:
        """Gives the chain free."""
        os.close(self._file)
        self._lock.close()

    @property
    def gone(self) -> bool:
        """Whether somebody has removed its file."""
        return not os.fstat(self._file).st_nlink

    def _next_file(self) -> None:
        name = self._path / f"{self._lines + 1:012}.jsonl"
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.close(self._file)
        self._file, self._size = file, 0
        _sync_folder(self._path)

    def _write_head(self, head: Head) -> None:
        """A head that cannot be written is behind, which contradicts nothing; the next one counts all lines."""
        new = self._path / "head.new"
        try:
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                _write_all(file, msgspec.json.encode(head))
                host.sync(file)
            finally:
                os.close(file)
            os.replace(new, self._path / "head")
            _sync_folder(self._path)
        except OSError as failure:
            logger.error("the head of the audit log cannot be written: %s", failure)
            if not head.lines:
                raise


def chains(root: Path) -> list[Path]:
    """The folders of all chains; one that holds a lock alone is not begun."""
    return sorted(path for path in root.glob("*") if (path / "head").exists() or _files(path))


def walk(path: Path, head: Head, seal: Seal, marks: Sequence[Mark] = (), resume: bool = False) -> Found:
    """Reads a chain.

    Args:
        path: its folder.
        head: as read before the lines.
        seal: hashes a line.
        marks: what other chains have seen of it.
        resume: reads only what lies behind the head, and the file that it is in.

    Raises:
        Broken: at the first fault.
    """
    files = _files(path)
    if resume:
        files = [file for i, file in enumerate(files) if i + 1 == len(files) or int(files[i + 1].stem) > head.lines]
    found = Found(files, hashed=GENESIS)
    if files and resume and int(files[0].stem) > 1:
        found.lines, found.hashed = int(files[0].stem) - 1, ""
    sealed = [Mark(head.lines, head.seal, "the head"), *marks]
    wanted = {mark.lines for mark in sealed}

    def check(place: Path, line: int) -> None:
        if found.lines in wanted:
            ours = head_seal(seal, head.id, found.lines, found.hashed)
            for mark in sealed:
                if mark.lines == found.lines and mark.seal != ours:
                    raise Broken(place, line, f"is not the line that {mark.by} has seen: one of them was changed")

    if found.hashed:
        check(path / "head", 0)
    for file in files:
        if int(file.stem) != found.lines + 1:
            raise Broken(file, 0, f"begins with line {int(file.stem)}, wanted {found.lines + 1}: lines are missing")
        if found.torn:
            raise Broken(file, 0, "follows a torn line")
        *lines, torn = file.read_bytes().split(b"\n")
        found.torn, found.size = len(torn), 0
        for place, raw in enumerate(lines, 1):
            _follow(found, raw, seal, file, place)
            check(file, place)
    for mark in sealed:
        if mark.lines > found.lines:
            raise Broken(files[-1] if files else path, 0, f"ends at line {found.lines}, but {mark.by} has {mark.lines}")
    return found


def _follow(found: Found, raw: bytes, seal: Seal, file: Path, place: int) -> None:
    """Takes one line more into `found`."""
    try:
        line = decode(raw)
    except UNREADABLE:
        raise Broken(file, place, "is no line of an audit log") from None
    if line.n != found.lines + 1:
        raise Broken(file, place, f"has number {line.n}, wanted {found.lines + 1}")
    if found.hashed and line.prev != found.hashed:
        raise Broken(file, place, "does not follow the line before it: one of them was changed")
    found.lines, found.hashed, found.size = line.n, seal(raw), found.size + len(raw) + 1
    found.first, found.last = found.first or line.ts, line.ts


def lines_of(path: Path) -> Iterator[tuple[Path, int, bytes]]:
    """All complete lines of a chain, whole or not, with their places."""
    for file in _files(path):
        for place, raw in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
            yield file, place, raw


def read_head(path: Path) -> Head:
    """The head of a chain.

    Raises:
        Broken: where it is missing or unreadable.
    """
    try:
        return _head.decode((path / "head").read_bytes())
    except FileNotFoundError:
        raise Broken(path / "head", 0, "is missing") from None
    except UNREADABLE:
        raise Broken(path / "head", 0, "is no head of an audit log") from None


def head_seal(seal: Seal, chain_id: str, lines: int, hashed: str) -> str:
    """What a head of so many lines holds: with a key, it cannot be had from the lines."""
    return seal(f"head {chain_id} {lines} {hashed}".encode())


def sealed_by(key: bytes) -> Seal:
    """What hashes lines: SHA-256, or HMAC with a key."""
    if key:
        return lambda data: hmac.digest(key, data, "sha256").hex()
    return lambda data: hashlib.sha256(data).hexdigest()


def key_id(key: bytes) -> str:
    """What names a key in public."""
    return hmac.digest(key, b"vigil audit key", "sha256").hex()[:8]


def timestamp(ms: int) -> str:
    """RFC 3339 in UTC, of epoch milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.jsonl") if file.stem.isdecimal() and len(file.stem) == 12)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
