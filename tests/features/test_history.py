"""Past events from files: what is read, how columns are found, and how each fault is named."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from vigil import domains
from vigil.errors import DataError
from vigil.features.history import read, write_table

PAYMENTS = domains.load("payments")
FIRST_MS = 1_522_540_831_000  # 2018-04-01T00:00:31Z


def frame(**columns: Any) -> pl.DataFrame:
    """Four good payments, some columns replaced."""
    good: dict[str, Any] = {
        "event_id": ["a", "b", "c", "d"],
        "ts": [FIRST_MS + 1000 * i for i in range(4)],
        "customer": ["C1", "C2", "C1", "C3"],
        "terminal": [7, 8, 7, 9],
        "amount": [10.0, 20.5, 3.25, 99.99],
        "label": [0, 1, None, 0],
    }
    return pl.DataFrame(good | columns)


def saved(path: Path, table: pl.DataFrame) -> Path:
    if path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    return path


@pytest.fixture(params=["parquet", "csv"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[pl.DataFrame], Path]:
    return lambda table: saved(tmp_path / f"history.{request.param}", table)


def test_columns_are_found_by_their_own_names(save: Callable[[pl.DataFrame], Path]) -> None:
    found = read(PAYMENTS, save(frame()))
    assert found.event_ids.tolist() == ["a", "b", "c", "d"]
    assert found.keys["customer"].tolist() == ["C1", "C2", "C1", "C3"]
    assert found.keys["terminal"].dtype == np.int64
    assert found.numbers["amount"].tolist() == [10.0, 20.5, 3.25, 99.99]
    assert found.labels.tolist() == [0, 1, -1, 0]
    assert found.scenarios is None


def test_the_handbooks_own_column_names_are_known(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "TRANSACTION_ID": [0, 1],
            "TX_DATETIME": [datetime(2018, 4, 1, 0, 0, 31), datetime(2018, 4, 1, 0, 2, 10)],
            "CUSTOMER_ID": [596, 4961],
            "TERMINAL_ID": [3156, 3412],
            "TX_AMOUNT": [57.16, 81.51],
            "TX_FRAUD": [0, 1],
            "TX_FRAUD_SCENARIO": [0, 2],
        }
    )
    found = read(PAYMENTS, saved(tmp_path / "raw.parquet", table))
    assert found.ts_ms.tolist() == [FIRST_MS, FIRST_MS + 99_000]
    assert found.labels.tolist() == [0, 1]
    assert found.scenarios is not None
    assert found.scenarios.tolist() == [0, 2]


def test_an_option_names_a_column_before_all_else(save: Callable[[pl.DataFrame], Path]) -> None:
    found = read(PAYMENTS, save(frame(euros=[1.0, 2.0, 3.0, 4.0])), {"amount": "euros"})
    assert found.numbers["amount"].tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "ts",
    [
        ["2018-04-01T00:00:31Z", "2018-04-01T02:00:32+02:00", "2018-04-01 00:00:33", "2018-04-01T00:00:34.000Z"],
        [datetime(2018, 4, 1, 0, 0, 31 + i) for i in range(4)],
        [datetime(2018, 4, 1, 0, 0, 31 + i, tzinfo=UTC) for i in range(4)],
        [FIRST_MS + 1000 * i for i in range(4)],
    ],
    ids=["text", "naive is UTC", "aware", "milliseconds"],
)
def test_times_are_read_as_utc_milliseconds(ts: list[Any], save: Callable[[pl.DataFrame], Path]) -> None:
    assert read(PAYMENTS, save(frame(ts=ts))).ts_ms.tolist() == [FIRST_MS + 1000 * i for i in range(4)]


def test_a_date_is_its_midnight(tmp_path: Path) -> None:
    found = read(PAYMENTS, saved(tmp_path / "h.parquet", frame(ts=[date(2018, 4, 1)] * 4)))
    assert found.ts_ms.tolist() == [1_522_540_800_000] * 4


def test_events_come_out_in_order_of_time_and_ties_keep_the_files_order(tmp_path: Path) -> None:
    ts = [FIRST_MS + 5, FIRST_MS, FIRST_MS + 5, FIRST_MS]
    found = read(PAYMENTS, saved(tmp_path / "h.parquet", frame(ts=ts)))
    assert found.event_ids.tolist() == ["b", "d", "a", "c"]
    assert found.numbers["amount"].tolist() == [20.5, 99.99, 10.0, 3.25]


def test_labels_may_be_absent(tmp_path: Path) -> None:
    found = read(PAYMENTS, saved(tmp_path / "h.parquet", frame().drop("label")))
    assert found.labels.tolist() == [-1, -1, -1, -1]


def test_a_payment_of_nothing_is_taken_as_past_data_holds_them(tmp_path: Path) -> None:
    found = read(PAYMENTS, saved(tmp_path / "h.parquet", frame(amount=[0.0, 1.0, 2.0, 3.0])))
    assert found.numbers["amount"][0] == 0.0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"amount": [1.0, None, 3.0, 4.0]}, "row 2, column amount: got None, wanted a finite number > 0"),
        ({"amount": [1.0, 2.0, float("nan"), 4.0]}, "row 3, column amount: got nan, wanted a finite number > 0"),
        ({"amount": [1.0, 2.0, 3.0, float("inf")]}, "row 4, column amount: got inf, wanted a finite number > 0"),
        ({"amount": [1.0, -2.0, 3.0, 4.0]}, "row 2, column amount: got -2.0, wanted a finite number > 0"),
        ({"amount": ["1", "2", "many", "4"]}, "row 3, column amount: got 'many', wanted a finite number > 0"),
        ({"ts": ["2018-04-01T00:00:31Z", "soon", "", ""]}, "row 2, column ts: got 'soon', wanted a datetime"),
        ({"ts": [1, 2, -3, 4]}, "row 3, column ts: got '-3', wanted a datetime"),
        ({"ts": [1, 2, None, 4]}, "row 3, column ts: got None, wanted a datetime"),
        ({"ts": [0.5, 1.5, 2.5, 3.5]}, "row 1, column ts: got 0.5 (Float64), wanted a datetime"),
        ({"label": [0, 1, 2, 0]}, "row 3, column label: got 2, wanted 0, 1 or null"),
        ({"label": ["no", "yes", "no", "no"]}, "row 1, column label: got 'no' (String), wanted 0, 1 or null"),
        ({"scenario": [0, 1, -1, 0]}, "row 3, column scenario: got -1, wanted 0 to 127"),
        ({"event_id": ["a", "b", "a", "d"]}, "column event_id: got 'a', wanted each event once (it is that of row 1"),
        ({"customer": ["C1", None, "C1", "C3"]}, "row 2, column customer: got None, wanted an integer, or a string"),
        ({"customer": ["C1", "C" * 200, "C1", "C3"]}, "row 2, column customer: got 'CCC"),
        ({"customer": [1.5, 2.5, 3.5, 4.5]}, "row 1, column customer: got 1.5 (Float64), wanted an integer"),
    ],
    ids=lambda value: value.split(",")[0] + value.partition("got")[2][:12] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_fault_is_named_with_row_column_value_and_what_was_wanted(
    columns: dict[str, Any], message: str, save: Callable[[pl.DataFrame], Path]
) -> None:
    with pytest.raises(DataError) as refused:
        read(PAYMENTS, save(frame(**columns)))
    assert message in str(refused.value)


def test_a_missing_column_is_named_with_those_that_are_there(save: Callable[[pl.DataFrame], Path]) -> None:
    with pytest.raises(DataError, match=r"column amount \(or TX_AMOUNT\) is missing; there are event_id, ts, customer"):
        read(PAYMENTS, save(frame().drop("amount")))


def test_an_option_for_a_column_or_field_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "h.parquet", frame())
    with pytest.raises(DataError, match="amount=EUR: the file has no column 'EUR'; there are event_id"):
        read(PAYMENTS, path, {"amount": "EUR"})
    with pytest.raises(DataError, match="no field 'price'; there are event_id, ts, customer"):
        read(PAYMENTS, path, {"price": "amount"})


def test_files_that_are_not_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read(PAYMENTS, tmp_path / "none.parquet")
    (tmp_path / "h.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read(PAYMENTS, tmp_path / "h.parquet")
    with pytest.raises(DataError, match=r"the ending is .json, wanted .parquet or .csv"):
        read(PAYMENTS, tmp_path / "h.json")
    with pytest.raises(DataError, match="no rows"):
        read(PAYMENTS, saved(tmp_path / "empty.parquet", frame().head(0)))


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_written_table_reads_back_as_it_was(kind: str, tmp_path: Path) -> None:
    history = read(PAYMENTS, saved(tmp_path / "h.parquet", frame()))
    features = np.arange(4 * len(PAYMENTS.feature_names), dtype=np.float32).reshape(4, -1)
    out = tmp_path / "deep" / f"table.{kind}"
    write_table(out, history, features)
    table = pl.read_csv(out, try_parse_dates=True) if kind == "csv" else pl.read_parquet(out)
    assert table.columns == ["event_id", "ts", "label", *PAYMENTS.feature_names]
    assert table["event_id"].to_list() == ["a", "b", "c", "d"]
    assert table["ts"][0] == datetime(2018, 4, 1, 0, 0, 31, tzinfo=UTC)
    assert table["label"].to_list() == [0, 1, None, 0]
    np.testing.assert_array_equal(table.select(PAYMENTS.feature_names).to_numpy(), features)
