"""Sources and sinks: where a stream comes from and goes to, and what each promises.

An address is `-` (standard input or output, JSON lines), a path ending in `.jsonl` or `.parquet`, or a topic,
`kafka://host:port/topic`. From topic to topic is another thing: a transaction spans both ends
(`vigil/stream/kafka/worker.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from vigil.errors import ConfigError

WANTED = "-, a path ending in .jsonl or .parquet, or kafka://host:port/topic"


class Guarantee(IntEnum):
    """How often each event gets through, whatever is killed when; a stream's is the weaker of its two ends'."""

    AT_MOST_ONCE = 0
    AT_LEAST_ONCE = 1
    EXACTLY_ONCE = 2

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Batch:
    """Events as JSON, and the number of the first among all of its source, from 1."""

    values: Sequence[bytes]
    first: int


class Source(Protocol):
    """Where events come from.

    Attributes:
        guarantee: how often an event is handed out, over all runs until one has ended well.
    """

    guarantee: Guarantee

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` events in order; each is asked for when the one before it is written.

        Raises:
            DataError: where the source cannot be read.
        """


class Sink(Protocol):
    """Where decision records go.

    Attributes:
        guarantee: how often what is written is there, over all runs until one has ended well.
    """

    guarantee: Guarantee

    def write(self, records: Sequence[bytes]) -> None:
        """Takes the records of a batch, in order.

        Raises:
            DataError: where they cannot be written.
        """

    def close(self) -> None:
        """All has been written."""


def suffix(address: str) -> str:
    """The ending of a file's address, in lower case.

    Raises:
        ConfigError: where the address is none we know.
    """
    ending = Path(address).suffix.lower()
    if ending not in (".jsonl", ".parquet"):
        raise ConfigError(f"address {address!r}: wanted {WANTED}")
    return ending


def check_apart(source: str, sink: str) -> None:
    """Raises ConfigError where both are one file: it would be begun anew before it is read."""
    if Path(source).exists() and Path(sink).exists() and Path(source).samefile(sink):
        raise ConfigError(f"{sink!r} would be written over before it is read: wanted another file")
