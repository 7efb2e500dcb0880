"""Files and pipes as ends of a stream: JSON lines and Parquet."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from vigil.decisions.record import Record, features_of
from vigil.domains.schema import Schema
from vigil.domains.spec import Domain
from vigil.errors import DataError
from vigil.features import history
from vigil.stream.endpoints import Batch, Guarantee, Sink, Source, suffix

READ_BYTES = 1 << 20


class JsonLines:
    """Lines of a file, an event each. A run that was cut short is run again from the beginning.

    Args:
        path: the file, or None: standard input, whose lines are handed out once, as soon as they are there.

    Raises:
        DataError: where the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self.guarantee = Guarantee.AT_LEAST_ONCE if path else Guarantee.AT_MOST_ONCE
        self._file: BinaryIO = _open(path, "rb") if path else sys.stdin.buffer

    def batches(self, size: int) -> Iterator[Batch]:
        """As the protocol says. Empty lines are passed over, but counted."""
        number, rest = 1, b""
        read1 = self._file.read1  # type: ignore[attr-defined]
        while chunk := read1(READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for start in range(0, len(lines), size):
                part = lines[start : start + size]
                yield Batch(part, number)
                number += len(part)
        if rest:
            yield Batch([rest], number)


class ParquetEvents:
    """Rows of a Parquet file in order of time, an event each, columns as `vigil train --data` takes them.

    Labels in it are left aside: a stream learns them from feedback. A run that was cut short is run again
    from the beginning.

    Raises:
        DataError: with row, column, value and reason for the first thing that is wrong.
    """

    guarantee = Guarantee.AT_LEAST_ONCE

    def __init__(self, domain: Domain, path: Path, columns: dict[str, str]) -> None:
        past = history.read(domain, path, columns)
        parts = [past.event_ids, past.ts_ms, *past.keys.values(), *past.numbers.values()]
        make = Schema(domain).struct
        self._events = (make(*row) for row in zip(*(part.tolist() for part in parts), strict=True))

    def batches(self, size: int) -> Iterator[Batch]:
        """As the protocol says."""
        encode, first = msgspec.json.Encoder().encode, 1
        while values := [encode(event) for event in islice(self._events, size)]:
            yield Batch(values, first)
            first += len(values)


class JsonLinesOut:
    """Lines of a file that is begun anew, or of standard output, each there as soon as its batch is written.

    Args:
        path: the file, or None: standard output.

    Raises:
        DataError: where the file cannot be written.
    """

    guarantee = Guarantee.AT_LEAST_ONCE

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO = _open(path, "wb") if path else sys.stdout.buffer

    def write(self, records: Sequence[bytes]) -> None:
        """As the protocol says."""
        if not records:
            return
        lines = b"\n".join(records)
        if lines.count(b"\n") >= len(records):  # events of a topic may have come in several lines
            lines = b"\n".join(record.replace(b"\n", b" ") for record in records)
        try:
            self._file.write(lines + b"\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as failure:
            raise DataError(f"{self._path or 'standard output'}: cannot be written ({failure.strerror})") from None

    def close(self) -> None:
        """As the protocol says."""
        if self._path:
            self._file.close()


class ParquetOut:
    """One Parquet file, which is there whole once all has been written, or not at all: a row a decision record.

    The columns are the record's fields; `event` is JSON text, `features` an array. What is written is kept in memory
    until then.

    Raises:
        DataError: where the file cannot be written.
    """

    guarantee = Guarantee.EXACTLY_ONCE

    def __init__(self, path: Path) -> None:
        import polars as pl

        self._path, self._frames = path, list[pl.DataFrame]()
        _open(path.with_name(path.name + ".new"), "wb").close()

    def write(self, records: Sequence[bytes]) -> None:
        """As the protocol says."""
        import polars as pl

        if records:
            decoded = msgspec.json.decode(b"[" + b",".join(records) + b"]", type=list[Record])
            rows = [msgspec.structs.asdict(row) for row in decoded]
            features = [row.pop("features") for row in rows]
            for row in rows:
                row["event_id"], row["event"] = str(row["event_id"]), bytes(row["event"]).decode()
            frame = pl.DataFrame(rows, schema_overrides={"risk": pl.Float64, "reasons": pl.List(pl.String)})
            if features[0] is not msgspec.UNSET:
                frame = frame.with_columns(pl.Series("features", features_of(features)))
            self._frames.append(frame)

    def close(self) -> None:
        """As the protocol says."""
        import polars as pl

        new = self._path.with_name(self._path.name + ".new")
        (pl.concat(self._frames) if self._frames else pl.DataFrame()).write_parquet(new)
        new.replace(self._path)


def source(address: str, domain: Domain, columns: dict[str, str]) -> Source:
    """The source that an address means.

    Raises:
        ConfigError: for no address of a file or pipe.
        DataError: where it cannot be read.
    """
    if address == "-":
        return JsonLines(None)
    if suffix(address) == ".jsonl":
        return JsonLines(Path(address))
    return ParquetEvents(domain, Path(address), columns)


def sink(address: str) -> Sink:
    """The sink that an address means.

    Raises:
        ConfigError: for no address of a file or pipe.
        DataError: where it cannot be written.
    """
    if address == "-":
        return JsonLinesOut(None)
    return JsonLinesOut(Path(address)) if suffix(address) == ".jsonl" else ParquetOut(Path(address))


def _open(path: Path, mode: str) -> BinaryIO:
    try:
        if "w" in mode:
            path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, mode)  # type: ignore[return-value]
    except OSError as failure:
        raise DataError(f"{path}: cannot be opened ({failure.strerror or failure})") from None
