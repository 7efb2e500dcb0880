"""The handbook's protocol: its weeks, and that figures can be had again from the file of risks."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from training import protocol
from training.split import date_of
from vigil import domains
from vigil.domains.simulation import World
from vigil.errors import DataError
from vigil.features.history import History
from vigil.features.memory.store import MemoryStore
from vigil.progress import Steps


def simulated(start: date, days: int) -> History:
    made = World(seed=2, customers=250, terminals=500, start=start).payments(0, days)
    return History(
        domains.load("payments"), made.event_ids, made.ts_ms, made.keys, made.numbers, made.labels, made.scenarios
    )


def test_folds_train_a_week_wait_a_week_and_test_a_week() -> None:
    fold = protocol.fold(simulated(date(2018, 7, 20), 40), protocol.STARTS[0])
    assert (date_of(fold.train.first_day), date_of(fold.train.end_day)) == ("2018-07-25", "2018-08-01")
    assert (date_of(fold.test.first_day), date_of(fold.test.end_day)) == ("2018-08-08", "2018-08-15")


def test_a_history_of_other_weeks_is_refused() -> None:
    with pytest.raises(DataError, match="goes from 2019-01-01 to 2019-01-10, wanted it to hold 2018-07-25"):
        protocol.fold(simulated(date(2019, 1, 1), 10), protocol.STARTS[0])


def test_the_figures_follow_from_the_file_of_risks(tmp_path: Path) -> None:
    history = simulated(date(2018, 7, 1), 70)
    features = MemoryStore(history.domain).replay(history)
    with Steps(Console(quiet=True)) as steps:
        results = protocol.run(history, features, tmp_path, seeds=1, steps=steps)
    table = pl.read_parquet(tmp_path / "protocol_risks.parquet")
    assert table.columns == ["transaction_id", "fold", "seed", "risk"]
    assert table["fold"].unique().sort().to_list() == ["2018-07-25", "2018-08-01", "2018-08-08", "2018-08-15"]
    last = table.filter(pl.col("fold") == "2018-08-15")
    test = results.folds[-1].test
    np.testing.assert_array_equal(last["transaction_id"].to_numpy(), history.event_ids[test.rows])
    again = protocol.measured(history, test, "customer", last["risk"].to_numpy())
    np.testing.assert_array_equal(again, results.values[-1, 0])
    assert "one Keras network, 4 folds" in (tmp_path / "protocol.md").read_text()
