"""The log: one line a record, as text or as JSON, and repeats left out but counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from threading import Lock
from time import monotonic
from typing import Any

import msgspec

from vigil.settings import Settings

LIBRARIES = ("", "bentoml", "uvicorn.error", "circus")
SAME_A_SECOND = 10
MOST_KINDS = 256

Kind = tuple[str, int, str]
Ids = Callable[[], dict[str, str]]


def no_ids() -> dict[str, str]:
    """Outside of any call."""
    return {}


# Gives the ids (trace, span, request) of the call that the present task belongs to.
ids: ContextVar[Ids] = ContextVar("vigil_ids", default=no_ids)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The ids of the call, and what the record brings as `extra={"fields": ...}`."""
    return {**ids.get()(), **getattr(record, "fields", {})}


class JsonLines(logging.Formatter):
    """A record as one JSON object: time (RFC 3339, UTC), level, logger, message, pid; and where there are any the ids
    of the trace, the fields of the record and the exception with its trace back."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": os.getpid(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


class TextLines(logging.Formatter):
    """What another formatter makes of a record, with ids and fields behind the message.

    Args:
        other: the formatter.
    """

    def __init__(self, other: logging.Formatter) -> None:
        super().__init__()
        self._other = other

    def format(self, record: logging.LogRecord) -> str:
        """The line; an exception stands below it."""
        first, end, rest = self._other.format(record).partition("\n")
        return " ".join([first, *(f"{key}={value}" for key, value in fields_of(record).items())]) + end + rest


class Repeats(logging.Filter):
    """Lets `most` warnings or errors of one kind pass a second, then says how many it left out.

    A kind is a logger, a level and a message before its arguments are put in. Of more than `MOST_KINDS`
    kinds a second, as where messages are put together before they are logged, the rest count as one a logger.

    Args:
        most: of a kind that pass in a second.
        clock_s: moments in seconds.
    """

    def __init__(self, most: int = SAME_A_SECOND, clock_s: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._most, self._clock_s = most, clock_s
        self._lock = Lock()
        self._counts: dict[Kind, int] = {}
        self._since_s = clock_s()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if record.levelno < logging.WARNING or hasattr(record, "left_out"):
            return True
        self.settle()
        with self._lock:
            kind = record.name, record.levelno, str(record.msg)
            if kind not in self._counts and len(self._counts) >= MOST_KINDS:
                kind = record.name, record.levelno, "any other"
            self._counts[kind] = count = self._counts.get(kind, 0) + 1
        return count <= self._most

    def settle(self) -> None:
        """Where a second has passed, says what was left out in it and begins anew."""
        with self._lock:
            now_s = self._clock_s()
            if now_s - self._since_s < 1:
                return
            counts, self._counts, self._since_s = self._counts, {}, now_s
        for (name, level, message), count in counts.items():
            if count > self._most:
                more = count - self._most
                logging.getLogger(name).log(
                    level, "%d more in a second, left out: %s", more, message, extra={"left_out": more}
                )


repeats = Repeats()


def configure(settings: Settings) -> None:
    """Gives the handlers there are, BentoML's, format, level and the filter of repeats; safe to be called again."""
    level = settings.log_level.upper()
    logging.getLogger("vigil").setLevel(level)
    handlers = {handler for name in LIBRARIES for handler in logging.getLogger(name).handlers}
    for handler in handlers:
        handler.addFilter(repeats)
        if settings.log_format == "json":
            handler.setFormatter(JsonLines())
        elif handler.formatter and not isinstance(handler.formatter, TextLines):
            handler.setFormatter(TextLines(handler.formatter))
