"""Cutting a history by time."""

from __future__ import annotations

import numpy as np
import pytest

from training.split import by_time, date_of, days_of, part
from vigil import domains
from vigil.domains.spec import DAY_MS
from vigil.errors import DataError
from vigil.features.history import History


def history(days: int, a_day: int = 20, first_day: int = 17_622) -> History:
    """Evenly spread payments, every tenth a fraud, every seventh without a label."""
    n = days * a_day
    at = np.arange(n, dtype=np.int64)
    labels = np.where(at % 10 == 0, 1, 0).astype(np.int8)
    labels[at % 7 == 6] = -1
    return History(
        domain=domains.load("payments"),
        event_ids=at,
        ts_ms=first_day * DAY_MS + at * (DAY_MS // a_day),
        keys={"customer": at % 5, "terminal": at % 3},
        numbers={"amount": np.full(n, 10.0)},
        labels=labels,
    )


def test_parts_follow_each_other_with_the_label_delay_between_and_never_overlap() -> None:
    past = history(100)
    split = by_time(past)
    assert split.gap_days == 7
    assert split.valid.first_day - split.train.end_day == 7
    assert split.test.first_day - split.valid.end_day == 7
    day = days_of(past)
    for earlier, later in ((split.train, split.valid), (split.valid, split.test)):
        assert day[earlier.rows].max() + 7 < day[later.rows].min()


def test_the_parts_have_the_days_asked_for_and_test_ends_with_the_history() -> None:
    split = by_time(history(120), train_days=30, valid_days=10, test_days=5)
    assert [each.end_day - each.first_day for each in split.parts] == [30, 10, 5]
    assert split.test.end_day == 17_622 + 120


def test_a_short_history_gets_shorter_parts_but_keeps_its_gaps() -> None:
    split = by_time(history(40))
    assert [each.end_day - each.first_day for each in split.parts] == [16, 5, 5]
    assert split.train.first_day == 17_622
    assert split.valid.first_day - split.train.end_day == 7


def test_events_without_a_label_belong_to_no_part() -> None:
    past = history(100)
    for each in by_time(past).parts:
        assert (past.labels[each.rows] >= 0).all()


def test_a_history_too_short_is_refused_with_the_days_it_has_and_needs() -> None:
    by_time(history(19))
    with pytest.raises(DataError, match=r"spans 18 days \(2018-04-01 to 2018-04-18\), wanted at least 19"):
        by_time(history(18))


def test_a_part_with_labels_of_one_kind_is_refused_by_name() -> None:
    past = history(100)
    past.labels[past.labels == 1] = 0
    with pytest.raises(DataError, match=r"train .* 0 of them bad: wanted some of both"):
        by_time(past)


def test_a_part_holds_the_days_from_its_first_up_to_but_without_its_end() -> None:
    past = history(10)
    rows = part(past, "some", 17_624, 17_626).rows
    assert set(days_of(past)[rows]) == {17_624, 17_625}
    assert date_of(17_624) == "2018-04-03"
