"""Laws of the log: a line is one object, and a flood is counted instead of written."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from vigil.observe import logs


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """What a handler with JSON lines writes for the logger "tried"."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    logger = logging.getLogger("tried")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_object_in_one_line(out: io.StringIO) -> None:
    logger = logging.getLogger("tried")
    logger.info("two\nlines of %s", "text", extra={"fields": {"rows": 3, "odd": object}})
    try:
        raise ValueError("no\nsuch")
    except ValueError:
        logger.exception("failed")
    first, second = lines(out)
    assert (first["level"], first["logger"], first["message"]) == ("info", "tried", "two\nlines of text")
    assert first["rows"] == 3
    assert first["time"].endswith("Z")
    assert datetime.fromisoformat(first["time"]).utcoffset() is not None
    assert second["exception"].endswith("ValueError: no\nsuch")
    assert "exception" not in first


def test_a_line_names_the_call_it_belongs_to(out: io.StringIO) -> None:
    token = logs.ids.set(lambda: {"trace_id": "ab"})
    logging.getLogger("tried").info("inside")
    logs.ids.reset(token)
    logging.getLogger("tried").info("outside")
    inside, outside = lines(out)
    assert inside["trace_id"] == "ab"
    assert "trace_id" not in outside


def test_text_has_ids_and_fields_behind_the_message() -> None:
    record = logging.makeLogRecord({"msg": "said\nmore", "fields": {"rows": 3}})
    assert logs.TextLines(logging.Formatter("%(message)s")).format(record) == "said rows=3\nmore"


def test_of_a_flood_of_one_kind_the_first_are_written_and_the_rest_counted(out: io.StringIO) -> None:
    clock = Clock()
    logger = logging.getLogger("tried")
    repeats = logs.Repeats(most=3, clock_s=clock)
    logger.handlers[0].addFilter(repeats)
    for i in range(50):
        logger.error("call %d failed", i)
        logger.info("not of this kind")
    logger.error("another")
    clock.now_s = 1.5
    repeats.settle()
    said = [line["message"] for line in lines(out) if line["level"] == "error"]
    assert said == [
        "call 0 failed",
        "call 1 failed",
        "call 2 failed",
        "another",
        "47 more in a second, left out: call %d failed",
    ]
    assert sum(line["level"] == "info" for line in lines(out)) == 50
    logger.error("call %d failed", 51)
    assert lines(out)[-1]["message"] == "call 51 failed"


def test_messages_that_all_differ_are_bounded_too(out: io.StringIO) -> None:
    logger = logging.getLogger("tried")
    logger.handlers[0].addFilter(logs.Repeats(most=3, clock_s=Clock()))
    for i in range(5000):
        logger.error(f"failed {i}")
    assert len(lines(out)) == logs.MOST_KINDS + 3
