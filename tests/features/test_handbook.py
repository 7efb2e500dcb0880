"""The handbook's columns against a plain pandas computation of their definitions.

On generated payments; with HANDBOOK_DATA=handbook_raw.parquet also on a slice of the handbook's own.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vigil.domains import load
from vigil.domains.simulation import simulate
from vigil.features.history import History, read
from vigil.features.memory.store import MemoryStore

DOMAIN = load("payments")
DELAY = 7


def generated() -> History:
    made = simulate(3, 0, 75, customers=150, terminals=100)
    return History(DOMAIN, made.event_ids, made.ts_ms, made.keys, made.numbers, made.labels)


def handbook() -> History:
    past = read(DOMAIN, Path(os.environ["HANDBOOK_DATA"]))
    rows = past.keys["customer"] < 250  # all their payments, and at each terminal those of these customers
    keys = {name: values[rows] for name, values in past.keys.items()}
    numbers = {name: values[rows] for name, values in past.numbers.items()}
    return History(DOMAIN, past.event_ids[rows], past.ts_ms[rows], keys, numbers, past.labels[rows])


def by_pandas(past: History) -> pd.DataFrame:
    """Chapter 3.3 of the handbook, with rolling windows over time."""
    frame = pd.DataFrame({**past.keys, **past.numbers, "fraud": past.labels})
    frame.index = pd.to_datetime(past.ts_ms, unit="ms")
    frame["row"] = np.arange(len(frame))
    out = pd.DataFrame(index=frame["row"])
    out["amount"] = frame["amount"].to_numpy()
    out["weekend"] = (frame.index.day_of_week >= 5).astype(float)
    out["night"] = (frame.index.hour <= 6).astype(float)
    for days in (1, 7, 30):
        for _, own in frame.groupby("customer"):
            window = own["amount"].rolling(f"{days}D")
            out.loc[own["row"], f"customer_count_{days}d"] = window.count().to_numpy()
            out.loc[own["row"], f"customer_mean_{days}d"] = window.mean().to_numpy()
        for _, own in frame.groupby("terminal"):
            young, whole = own["fraud"].rolling(f"{DELAY}D"), own["fraud"].rolling(f"{DELAY + days}D")
            count = whole.count().to_numpy() - young.count().to_numpy()
            frauds = whole.sum().to_numpy() - young.sum().to_numpy()
            out.loc[own["row"], f"terminal_count_{days}d"] = count
            out.loc[own["row"], f"terminal_risk_{days}d"] = np.divide(
                frauds, count, np.zeros(len(own)), where=count > 0
            )
    return out


@pytest.mark.parametrize("source", [generated, *([handbook] if "HANDBOOK_DATA" in os.environ else [])])
def test_the_handbooks_columns_equal_a_plain_pandas_computation(source) -> None:  # type: ignore[no-untyped-def]
    past = source()
    expected = by_pandas(past)
    assert len(expected.columns) == 15
    features = MemoryStore(DOMAIN).replay(past)
    for name in expected:
        ours = features[:, DOMAIN.feature_names.index(name)]
        np.testing.assert_allclose(ours, expected[name].to_numpy(), rtol=1e-6, atol=1e-6, err_msg=name)
