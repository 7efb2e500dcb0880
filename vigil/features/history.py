"""A domain's past events as columns: read from Parquet or CSV, checked where they enter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vigil.domains.schema import MAX_KEY
from vigil.domains.spec import Domain, Number
from vigil.domains.times import MOST_MS
from vigil.errors import DataError, quote

if TYPE_CHECKING:
    import polars as pl

UNKNOWN = -1
_TS_WANTED = "a datetime, an RFC 3339 time (UTC where it has no offset), or epoch milliseconds"
_KEY_WANTED = f"an integer, or a string of 1 to {MAX_KEY} characters"
_OFFSET = r"[+-]\d\d:\d\d$"
_RFC_3339 = "%Y-%m-%dT%H:%M:%S%.f%:z"


@dataclass(frozen=True)
class History:
    """Events of the past, n of them, in order of time (those of one millisecond in the order of their source).

    Args:
        domain: whose events they are.
        event_ids: int64[n] or object[n] of str, each once.
        ts_ms: int64[n], epoch milliseconds UTC, ascending.
        keys: of each entity its keys, int64[n] or object[n] of str.
        numbers: of each declared number its values, float64[n].
        labels: int8[n], 1 bad, 0 good, -1 unknown.
        scenarios: int8[n], what kind of bad event it was (0: none), where that is known.
    """

    domain: Domain
    event_ids: np.ndarray
    ts_ms: np.ndarray
    keys: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray]
    labels: np.ndarray
    scenarios: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ts_ms)


def read(domain: Domain, path: Path, columns: Mapping[str, str] | None = None) -> History:
    """The events of a Parquet or CSV file.

    A field is read from the column that `columns` names for it, else from the column of its own name,
    else from that of one of the domain's aliases. `label` and `scenario` may be missing, and labels
    may be null (unknown). A number at its exclusive lower bound is taken: past data holds payments of
    0.00, and without them the counts of others would change.

    Raises:
        DataError: with row (the first is 1), column, value and reason, for the first thing that is wrong.
    """
    frame = _load(path)
    source = _resolve(domain, frame.columns, columns or {})
    if not len(frame):
        raise DataError(f"{path}: no rows, wanted at least one event")
    read_label = "label" in source
    event_ids = _keys(frame[source["event_id"]])
    _refuse_repeats(frame[source["event_id"]])
    ts_ms = _times(frame[source["ts"]])
    keys = {entity.name: _keys(frame[source[entity.name]]) for entity in domain.entities}
    numbers = {number.name: _numbers(frame[source[number.name]], number) for number in domain.numbers}
    labels = _small(frame[source["label"]], "0, 1 or null", 1, UNKNOWN) if read_label else None
    scenarios = _small(frame[source["scenario"]], "0 to 127", 127, 0) if "scenario" in source else None
    order = np.argsort(ts_ms, kind="stable")
    return History(
        domain=domain,
        event_ids=event_ids[order],
        ts_ms=ts_ms[order],
        keys={name: column[order] for name, column in keys.items()},
        numbers={name: column[order] for name, column in numbers.items()},
        labels=np.full(len(frame), UNKNOWN, np.int8) if labels is None else labels[order],
        scenarios=None if scenarios is None else scenarios[order],
    )


def parse_columns(options: Sequence[str]) -> dict[str, str]:
    """`field=COLUMN` options as a mapping.

    Raises:
        DataError: for one without a `=`.
    """
    found = {}
    for option in options:
        name, equals, column = option.partition("=")
        if not (name and equals and column):
            raise DataError(f"--column {option}: wanted FIELD=COLUMN, such as amount=TX_AMOUNT")
        found[name] = column
    return found


def write_table(path: Path, history: History, features: np.ndarray) -> None:
    """Writes event_id, ts, label and the features of each event as Parquet or CSV, by the name's ending.

    Args:
        features: float32[n, F], columns as `history.domain.feature_names`.

    Raises:
        DataError: for another ending, or where the file cannot be written.
    """
    import polars as pl

    labels = pl.Series("label", history.labels)
    head = {
        "event_id": pl.Series(history.event_ids.tolist()),
        "ts": pl.Series(history.ts_ms).cast(pl.Datetime("ms", "UTC")),
        "label": labels.set(labels < 0, None),
    }
    body = {name: features[:, i] for i, name in enumerate(history.domain.feature_names)}
    frame = pl.DataFrame(head | body)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _kind(path) == ".csv":
            frame.write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S%.3fZ")
        else:
            frame.write_parquet(path)
    except OSError as failure:
        raise DataError(f"{path}: cannot be written ({failure.strerror or failure})") from None


def _kind(path: Path) -> str:
    kind = path.suffix.lower()
    if kind not in (".parquet", ".csv"):
        raise DataError(f"{path}: the ending is {kind or 'missing'}, wanted .parquet or .csv")
    return kind


def _load(path: Path) -> pl.DataFrame:
    import polars as pl

    kind = _kind(path)
    try:
        # Types are inferred from all rows: a word among a million numbers is to be found, not to crash the reader.
        return pl.read_csv(path, infer_schema_length=None) if kind == ".csv" else pl.read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, pl.exceptions.PolarsError) as failure:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise DataError(f"{path}: cannot be read as {kind[1:]} ({reason})") from None


def _resolve(domain: Domain, present: list[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """The column of each field; optional fields only where they are there."""
    aliases = {name: domain.aliases.get(name, ()) for name in ("event_id", "ts")}
    aliases |= {entity.name: entity.aliases for entity in domain.entities}
    aliases |= {number.name: number.aliases for number in domain.numbers}
    required = list(aliases)
    aliases |= {name: domain.aliases.get(name, ()) for name in ("label", "scenario")}
    there = "there are " + ", ".join(present)
    for name, column in chosen.items():
        if name not in aliases:
            raise DataError(f"column option {name}={column}: no field {name!r}; there are {', '.join(aliases)}")
        if column not in present:
            raise DataError(f"column option {name}={column}: the file has no column {column!r}; {there}")
    found = {}
    for name, others in aliases.items():
        source = chosen.get(name) or next((column for column in (name, *others) if column in present), None)
        if source is not None:
            found[name] = source
        elif name in required:
            also = f" (or {', '.join(others)})" if others else ""
            raise DataError(
                f"column {name}{also} is missing; {there}; name another by the option --column {name}=COLUMN"
            )
    return found


def _refuse(column: pl.Series, bad: np.ndarray, wanted: str, value: Callable[[Any], Any] = lambda got: got) -> None:
    """Raises DataError for the first row that is `bad` (bool[n]), if any."""
    if bad.any():
        row = int(bad.argmax())
        got = value(column[row])
        raise DataError(f"row {row + 1}, column {column.name}: got {quote(got)}, wanted {wanted}")


def _refuse_type(column: pl.Series, wanted: str) -> DataError:
    return DataError(f"row 1, column {column.name}: got {quote(column[0])} ({column.dtype}), wanted {wanted}")


def _keys(column: pl.Series) -> np.ndarray:
    import polars as pl

    if column.dtype == pl.Categorical or column.dtype == pl.Enum:
        column = column.cast(pl.String)
    _refuse(column, column.is_null().to_numpy(), _KEY_WANTED)
    if column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        _refuse(column, whole.is_null().to_numpy(), "an integer of 64 bits")
        return whole.to_numpy()
    if column.dtype == pl.String:
        length = column.str.len_chars().to_numpy()
        _refuse(column, (length < 1) | (length > MAX_KEY), _KEY_WANTED)
        return np.array(column.to_list(), dtype=object)
    raise _refuse_type(column, _KEY_WANTED)


def _refuse_repeats(column: pl.Series) -> None:
    if column.n_unique() == len(column):
        return
    repeated = (~column.is_first_distinct()).to_numpy()
    row = int(repeated.argmax())
    first = int((column == column[row]).to_numpy().argmax())
    _refuse(column, repeated, f"each event once (it is that of row {first + 1} as well)")


def _times(column: pl.Series) -> np.ndarray:
    import polars as pl

    _refuse(column, column.is_null().to_numpy(), _TS_WANTED)
    if column.dtype == pl.String:
        text = column.str.replace(r"^(.{10})[ t]", "${1}T").str.replace(r"[zZ]$", "+00:00")
        text = text.str.replace(r"(T.*[+-]\d\d)(\d\d)$", "${1}:${2}")  # +0000, as some writers of CSV have it
        text = text.zip_with(text.str.contains(_OFFSET), text + "+00:00")
        ms = _rounded(text.str.to_datetime(_RFC_3339, time_unit="us", strict=False))
    elif isinstance(column.dtype, pl.Datetime | pl.Date):
        ms = _rounded(column.cast(pl.Datetime("us")))
    elif column.dtype.is_integer():
        ms = column.cast(pl.Int64, strict=False)
    else:
        raise _refuse_type(column, _TS_WANTED)
    known = ms.fill_null(UNKNOWN).to_numpy()
    _refuse(column, (known < 0) | (known > MOST_MS), _TS_WANTED, str)
    return known


def _rounded(moments: pl.Series) -> pl.Series:
    """Microseconds to the nearest millisecond, as live events are rounded."""
    import polars as pl

    return (moments.cast(pl.Int64) / 1000).round(mode="half_to_even").cast(pl.Int64)


def _numbers(column: pl.Series, number: Number) -> np.ndarray:
    import polars as pl

    if not (column.dtype.is_numeric() or column.dtype == pl.String):
        raise _refuse_type(column, number.wanted)
    values = column.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    bad = ~np.isfinite(values) | (values > number.at_most)
    lowest = [bound for bound in (number.above, number.at_least) if bound is not None]
    if lowest:
        bad |= values < max(lowest)
    _refuse(column, bad, number.wanted)
    return values


def _small(column: pl.Series, wanted: str, most: int, missing: int) -> np.ndarray:
    """Small whole numbers 0 to `most` (int8[n]); `missing` for null."""
    import polars as pl

    if column.null_count() == len(column):
        return np.full(len(column), missing, np.int8)
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise _refuse_type(column, wanted)
    values = column.cast(pl.Float64).fill_null(missing).to_numpy()
    with np.errstate(invalid="ignore"):
        bad = ~column.is_null().to_numpy() & ~((values >= 0) & (values <= most) & (values == np.floor(values)))
    _refuse(column, bad, wanted)
    return values.astype(np.int8)
