"""Laws of decoding and checking events."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vigil.domains import load
from vigil.domains.schema import Schema, key_of, ts_ms
from vigil.domains.spec import quantise
from vigil.errors import InvalidEvent, InvalidInput

SCHEMA = Schema(load("payments"))
GOOD = {"event_id": "p1", "ts": 1_538_352_000_000, "customer": "C1", "terminal": 7, "amount": 12.5}


def body(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}).encode()


def row(data: bytes) -> tuple[list[int], list[str]]:
    return SCHEMA.row(SCHEMA.decode(data)[0][0])


def test_an_event_becomes_its_key_time_quanta_and_entities() -> None:
    assert row(body()) == ([key_of("p1", 0), 1_538_352_000_000, 1250], ["C1", "7"])


def test_a_time_is_the_same_in_every_form() -> None:
    forms = ["2018-10-01T00:00:00Z", "2018-10-01T02:00:00+02:00", "2018-10-01T00:00:00.000+00:00"]
    assert {tuple(row(body(ts=form))[0]) for form in forms} == {tuple(row(body())[0])}


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1)), st.integers(-14, 14))
def test_milliseconds_survive_rfc_3339(moment: datetime, hours: int) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
    text = moment.astimezone(timezone(timedelta(hours=hours))).isoformat()
    assert row(body(ts=text))[0][1] == ts_ms(moment) == round(moment.timestamp() * 1000)


@given(st.integers(-(2**53), 2**53))
def test_an_integer_key_and_its_string_are_one_entity(key: int) -> None:
    assert row(body(customer=key, event_id=key)) == row(body(customer=str(key), event_id=str(key)))


@given(st.floats(0.005, 1e9, allow_nan=False))
def test_live_and_historical_amounts_are_rounded_alike(amount: float) -> None:
    number = SCHEMA.domain.numbers[0]
    assert row(body(amount=amount))[0][2] == quantise(np.array([amount]), number)[0]


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"amount": ...}, "amount", "amount: got nothing, wanted a finite number > 0"),
        (
            {"colour": "red"},
            "colour",
            "colour: got 'red', wanted one of the fields event_id, ts, customer, terminal, amount",
        ),
        ({"amount": -1}, "amount", "got -1.0, wanted a finite number > 0 and <= 1e\\+09 \\(EUR\\)"),
        ({"amount": 0}, "amount", "got 0"),
        ({"amount": float("nan")}, "body", "JSON"),
        ({"amount": 1e12}, "amount", "got 1000000000000.0"),
        ({"amount": "12"}, "amount", "got '12'"),
        ({"amount": True}, "amount", "got True"),
        ({"amount": None}, "amount", "got None"),
        ({"ts": "yesterday"}, "ts", "got 'yesterday', wanted an RFC 3339 time"),
        ({"ts": "2018-10-01T00:00:00"}, "ts", "RFC 3339 time with an offset"),
        ({"ts": -5}, "ts", "got -5"),
        ({"ts": 1e30}, "ts", "got 1e\\+30"),
        ({"ts": 10**17}, "ts", "epoch milliseconds"),
        ({"customer": ""}, "customer", "a string of 1 to 128 characters"),
        ({"customer": "x" * 129}, "customer", "a string of 1 to 128 characters"),
        ({"customer": [1]}, "customer", "got \\[1\\]"),
        ({"event_id": None}, "event_id", "got None"),
    ],
)
def test_a_bad_field_is_named_with_what_came_and_what_was_wanted(
    changes: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as refusal:
        row(body(**changes))
    assert str(refusal.value).startswith(field)


def test_the_place_of_a_bad_event_in_an_array_is_named() -> None:
    data = b"[" + body() + b"," + body(amount="x") + b"]"
    with pytest.raises(InvalidEvent, match=r"^\[1\]\.amount: got 'x'"):
        SCHEMA.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[",
        b"nope",
        b"\xff\xfe",
        b"[]",
        b"3",
        b'"x"',
        b"null",
        b"[1]",
        b"{}",
        b'{"event_id":"\xff"}',
        b'[{"\xe9":1}]',
    ],
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        SCHEMA.decode(data)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    for decode in (SCHEMA.decode, SCHEMA.decode_feedback):
        with pytest.raises(InvalidInput):
            decode(data)


leaves = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
names = st.sampled_from([*GOOD, "x"])


@given(st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner)))
def test_any_json_is_an_event_or_refused(value: Any) -> None:
    with suppress(InvalidInput):
        for event in SCHEMA.decode(json.dumps(value).encode())[0]:
            SCHEMA.row(event)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"event_id": "a"}', "label: got nothing, wanted 0 or 1"),
        (b'{"event_id": "a", "label": 2}', "label: got 2, wanted 0 or 1"),
        (b'[{"event_id": "a", "label": 1}, {"event_id": "", "label": 1}]', r"event_id: got ''"),
        (b'{"event_id": "a", "label": 1, "why": 3}', "why: got 3"),
    ],
)
def test_bad_feedback_is_refused_by_field(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        SCHEMA.decode_feedback(data)


any_key = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
any_time = st.one_of(st.integers(0, 2**47), st.datetimes(datetime(1971, 1, 1), datetime(9999, 1, 1)))


@given(st.lists(st.tuples(any_key, any_time, st.floats(0.01, 1e9)), max_size=9), st.integers(-14, 14))
def test_many_events_become_the_same_numbers_as_one_by_one(values: list[Any], hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    times = [ts if isinstance(ts, int) else ts.replace(tzinfo=zone) for _, ts, _ in values]
    events = [
        SCHEMA.struct(event_id=key, ts=ts, customer="c", terminal="t", amount=amount)
        for (key, _, amount), ts in zip(values, times, strict=True)
    ]
    assert SCHEMA.columns(events).tolist() == [SCHEMA.row(event)[0] for event in events]


@pytest.mark.parametrize(
    "bad",
    [
        {"event_id": ""},
        {"event_id": "x" * 129},
        {"ts": -1},
        {"ts": 1 << 62},
        {"ts": 1 << 70},
        {"ts": datetime(2018, 1, 1)},
        {"amount": float("nan")},
        {"amount": 0.0},
        {"amount": 2e9},
    ],
)
def test_a_bad_event_among_many_is_refused_as_alone(bad: dict[str, Any]) -> None:
    good = [SCHEMA.make(GOOD | {"event_id": i}) for i in range(40)]
    wrong = SCHEMA.struct(**(GOOD | bad))
    with pytest.raises(InvalidEvent) as alone:
        SCHEMA.row(wrong)
    with pytest.raises(InvalidEvent) as among:
        SCHEMA.columns([*good, wrong, *good])
    assert str(among.value) == str(alone.value)


TEXTS = [body(), body(event_id="p2"), body() + b" " + body(), body() + body(), b"", b" ", b"{", b"null", b" " + body()]


def alone(text: bytes) -> Any:
    try:
        return SCHEMA.decode(text)[0][0]
    except InvalidInput:
        return InvalidInput


@example([b"", body() + b" " + body()])
@given(st.lists(st.sampled_from([*TEXTS, body()[:20], body()[20:]]), max_size=6))
def test_each_of_many_texts_is_decoded_as_if_it_came_alone(texts: list[bytes]) -> None:
    events = SCHEMA.decode_each(texts)
    assert [InvalidInput if isinstance(event, InvalidInput) else event for event in events] == list(map(alone, texts))
