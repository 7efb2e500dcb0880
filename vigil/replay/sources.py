"""Where records and labels are read from: a file, the folder of a service's records, a topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from vigil import settings
from vigil.decisions.archive import Archive, folder
from vigil.domains.schema import UNREADABLE, Feedback
from vigil.errors import ConfigError, DataError

BATCH = 5000


class Lines(Protocol):
    """JSON texts, and how far reading them has come.

    Attributes:
        total: of the number that comes with each batch, which counts `unit`s.
    """

    total: int
    unit: str

    def batches(self, size: int) -> Iterator[tuple[list[bytes], int]]:
        """At most `size` texts, and how much of `total` is behind them."""


class FileLines:
    """Lines of files, one file behind the other.

    Args:
        lines: without their ends.
        total: bytes, ends included.
    """

    unit = "bytes"

    def __init__(self, lines: Iterable[bytes], total: int) -> None:
        self.total, self._lines = total, iter(lines)

    def batches(self, size: int) -> Iterator[tuple[list[bytes], int]]:
        """As the protocol says."""
        done = 0
        while part := list(islice(self._lines, size)):
            done += sum(map(len, part)) + len(part)
            yield part, done


def lines(address: str) -> Lines:
    """What an address means: a path ending in .jsonl, a folder of records ("": this machine's), `kafka://...`.

    Raises:
        ConfigError: for another address, or where a package is missing.
        DataError: where there is nothing to read.
        Unavailable: where no broker answers.
    """
    if address.startswith("kafka://"):
        try:
            from vigil.stream.kafka.config import read_properties
            from vigil.stream.kafka.topic_reader import TopicReader
            from vigil.stream.topics import Topic
        except ModuleNotFoundError as missing:
            raise ConfigError(f"{missing.name} is not installed: pip install 'vigil[stream]'") from None
        return TopicReader(Topic.parse(address), read_properties(settings.load().kafka_properties))
    path = Path(address) if address else folder(settings.load())
    if path.is_dir() or not address:
        archive = Archive(path)
        files = archive.segments()
        if not files:
            raise DataError(f"{path}: no decision records there")
        return FileLines(archive.lines(), sum(file.stat().st_size for file in files))
    if path.suffix != ".jsonl":
        raise ConfigError(f"address {address!r}: wanted a path ending in .jsonl, a folder, or kafka://host:port/topic")
    try:
        return FileLines(_of_file(path), path.stat().st_size)
    except OSError as failure:
        raise DataError(f"{path}: cannot be read ({failure.strerror})") from None


def _of_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line.rstrip(b"\r\n")


def labels(address: str) -> dict[str, int]:
    """The labels of events by their ids as text; of an event labelled twice, the last, as in the feature state.

    Raises:
        ConfigError, DataError, Unavailable: as `lines`; DataError for what is no label, with its number.
    """
    found: dict[str, int] = {}
    decode = msgspec.json.Decoder(Feedback).decode
    batches = lines(address).batches(BATCH)
    for number, line in enumerate((line for batch, _ in batches for line in batch), 1):
        try:
            label = decode(line)
        except UNREADABLE as failure:
            wanted = '{"event_id": ..., "label": 0 or 1}'
            raise DataError(f"{address}, label {number}: {failure}; wanted {wanted}") from None
        if label.label not in (0, 1):
            raise DataError(f"{address}, label {number}: got {label.label}, wanted 0 or 1")
        found[str(label.event_id)] = label.label
    return found
