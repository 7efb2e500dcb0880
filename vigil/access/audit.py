"""The audit log: who did what, from where, and with which result. `vigil.access.chain` has its files."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from vigil.access.chain import (
    FILE_BYTES,
    UNREADABLE,
    Broken,
    Chain,
    Entry,
    Mark,
    chains,
    decode,
    key_id,
    lines_of,
    read_head,
    sealed_by,
    timestamp,
    walk,
)
from vigil.errors import ConfigError, InvalidInput, quote
from vigil.observe import metrics
from vigil.settings import Settings

logger = logging.getLogger(__name__)

GATHER_S = 0.05
TELL_S = 1.0
MOST_WAITING = 10_000
MOST_TEXT = 256
REFUSALS_A_SECOND = 5
LEAST_KEY_BYTES = 16


def folder(settings: Settings) -> Path:
    """Where the log of these settings lies."""
    return settings.state_dir / "audit"


def read_key(path: Path | None) -> bytes:
    """The key in the file that VIGIL_AUDIT_KEY_FILE names; empty for none.

    Raises:
        ConfigError: where it cannot be read or is too short.
    """
    if path is None:
        return b""
    try:
        key = path.read_bytes().strip()
    except OSError as failure:
        raise ConfigError(f"VIGIL_AUDIT_KEY_FILE={path}: {failure.strerror}") from None
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigError(f"VIGIL_AUDIT_KEY_FILE={path}: holds {len(key)} bytes, wanted at least {LEAST_KEY_BYTES}")
    return key


class AuditLog:
    """Writes the log of one process. Calls come from one thread and wait for nothing; another writes to disk.

    Entries that the disk does not take are dropped, counted (`vigil_audit_total`) and told by a "lost" line in the
    log once it takes lines again.

    Args:
        root: the folder of all chains.
        clock_ms: gives the time, epoch milliseconds UTC.
        key: seals the chain; empty: hashes without a key.
        file_bytes: size at which the next file is begun.
        refusals_a_second: how many refused calls are written.
    """

    def __init__(
        self,
        root: Path,
        clock_ms: Callable[[], int],
        key: bytes = b"",
        file_bytes: int = FILE_BYTES,
        refusals_a_second: int = REFUSALS_A_SECOND,
    ) -> None:
        self._root, self._clock_ms, self._key = root, clock_ms, key
        self._file_bytes, self._most_refusals = file_bytes, refusals_a_second
        self._waiting: deque[Entry] = deque()
        self._some, self._stopping = threading.Event(), threading.Event()
        self._second = self._refusals = 0
        # Of each pair the first is counted up in one thread, the second in the other: no lock.
        self._left_out = self._told_left_out = 0
        self._too_many = self._told_too_many = 0
        self._lost = 0
        self._failing = False
        self._chain: Chain | None = None
        self._counted = {name: metrics.AUDIT.labels(name) for name in ("written", "lost", "left_out")}
        self._thread = threading.Thread(target=self._run, name="vigil-audit", daemon=True)
        self._thread.start()

    def write(self, who: str, what: str, origin: str, target: str = "", result: str = "ok") -> None:
        """Hands over an entry. Texts are cut at 256 characters and escaped.

        Args:
            who: name of the key, subject of the token or certificate, "open", or "local user" for the command line.
            what: the act: "keys create", "load", "unload", "feedback", "refused".
            origin: the caller's address.
            target: what it was done to: a key, a model, the path of a call.
            result: "ok", or why not.
        """
        if len(self._waiting) >= MOST_WAITING:
            self._too_many += 1
            return
        texts = tuple([text if len(text) <= MOST_TEXT else _cut(text) for text in (who, what, origin, target, result)])
        self._waiting.append((self._clock_ms(), texts))
        if not self._some.is_set():
            self._some.set()

    def refuse(self, who: str, what: str, origin: str, target: str, result: str) -> None:
        """As `write`, for refused calls: some each second; a "left out" line counts the others."""
        second = self._clock_ms() // 1000
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        if self._refusals <= self._most_refusals:
            self.write(who, what, origin, target, result)
        else:
            self._left_out += 1

    def close(self) -> int:
        """Ends once all entries are on disk, or lost. Returns how many are lost and not told in the log."""
        self._stopping.set()
        self._some.set()
        self._thread.join()
        return self._lost

    def _run(self) -> None:
        self._write()
        while not self._stopping.is_set():
            if self._some.wait(TELL_S):
                self._stopping.wait(GATHER_S)
                self._some.clear()  # first: what comes from here on sets it again
            self._write()
        self._write()
        if self._chain:
            self._chain.close()

    def _write(self) -> None:
        entries = []
        while self._waiting:
            entries.append(self._waiting.popleft())
        left_out, too_many = self._left_out - self._told_left_out, self._too_many - self._told_too_many
        self._told_left_out += left_out
        self._told_too_many += too_many
        self._lost += too_many
        self._counted["left_out"].inc(left_out)
        self._counted["lost"].inc(too_many)
        told: list[Entry] = []
        for what, count in (("left out", left_out), ("lost", self._lost)):
            if count:
                told.append((self._clock_ms(), ("vigil", what, "", "", f"{count} entries")))
        if not (entries or told) and self._chain:
            return
        try:
            if self._chain and self._chain.gone:
                self._chain.close()
                self._chain = None
            if self._chain is None:
                self._chain = Chain.open(self._root, self._key, self._file_bytes, self._clock_ms)
            self._chain.append(entries + told)
        except OSError as failure:
            self._lost += len(entries) + left_out
            self._counted["lost"].inc(len(entries) + left_out)
            if not self._failing:
                logger.error("the audit log cannot be written, %d entries are lost: %s", self._lost, failure)
            self._failing = True
        else:
            self._lost = 0
            self._counted["written"].inc(len(entries))
            if self._failing:
                logger.warning("the audit log is written again")
            self._failing = False


class Verdict(NamedTuple):
    """What was found of one chain; `fault` is empty where it is whole."""

    name: str
    files: int
    lines: int
    first: str
    last: str
    torn: int
    fault: str


def verify(root: Path, key: bytes = b"") -> list[Verdict]:
    """Checks all chains.

    Args:
        root: the folder of the log.
        key: that seals it; empty for none.
    """
    marks: dict[str, list[Mark]] = defaultdict(list)
    for path in chains(root):  # before the heads, and these before the lines: a log that is being written only grows
        for file, place, raw in lines_of(path):
            if b'"seen":{' in raw:
                try:
                    seen = decode(raw).seen
                except UNREADABLE:
                    continue  # told below
                for name, (lines, seal) in seen.items():
                    marks[name].append(Mark(lines, seal, f"{file}:{place}"))
    paths = {path.name: path for path in chains(root)}
    verdicts = [_check(path, key, marks[name]) for name, path in paths.items()]
    for name in sorted(marks.keys() - paths.keys()):
        mark = max(marks[name])
        verdicts.append(Verdict(name, 0, 0, "", "", 0, f"is missing: {mark.by} has seen {mark.lines} lines of it"))
    if key and not any(name.endswith(f"-{key_id(key)}") for name in paths):
        verdicts.append(Verdict(f"*-{key_id(key)}", 0, 0, "", "", 0, "there is no chain sealed with this key"))
    return verdicts


def _check(path: Path, key: bytes, marks: list[Mark]) -> Verdict:
    sealed = path.name.partition("-")[2]
    try:
        if sealed and (not key or sealed != key_id(key)):
            raise Broken(path, 0, f"is sealed with key {sealed}: VIGIL_AUDIT_KEY_FILE must name it")
        found = walk(path, read_head(path), sealed_by(key if sealed else b""), marks)
    except Broken as failure:
        return Verdict(path.name, 0, 0, "", "", 0, str(failure))
    return Verdict(path.name, len(found.files), found.lines, found.first, found.last, found.torn, "")


def find(root: Path, since: str = "", what: str = "", who: str = "") -> Iterator[str]:
    """Lines of all chains, whole or not, by their time.

    Args:
        root: the folder of the log.
        since: a date or a time, RFC 3339, UTC where it names no zone.
        what, who: as written; empty: any.

    Raises:
        InvalidInput: where `since` is no time.
    """
    oldest = ""
    if since:
        try:
            moment = datetime.fromisoformat(since)
        except ValueError:
            raise InvalidInput(f"since: got {quote(since)}, wanted a time like 2026-01-31T12:00:00Z") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        oldest = timestamp(int(moment.timestamp() * 1000))
    matching = []
    for path in chains(root):
        for _, _, raw in lines_of(path):
            try:
                line = decode(raw)
            except UNREADABLE:
                continue
            if line.ts >= oldest and what in ("", line.what) and who in ("", line.who):
                matching.append((line.ts, raw))
    return (raw.decode() for _, raw in sorted(matching, key=lambda pair: pair[0]))


def _cut(text: str) -> str:
    return f"{text[:MOST_TEXT]}... ({len(text)} characters)"
