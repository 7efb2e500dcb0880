"""What can go wrong, and what each caller gets for it.

Every error that reaches a caller is a `VigilError`: it names what failed, what came and
what was wanted, and carries the HTTP status and the gRPC status name to answer with.
"""

from __future__ import annotations

import math
from typing import ClassVar


class VigilError(Exception):
    """Base of everything Vigil raises on purpose. The message is safe to show to a caller."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"


class InvalidInput(VigilError):
    """A request that does not mean anything: raise it naming the field, what came, what was wanted."""

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"


class InvalidEvent(InvalidInput):
    """One event with one bad field.

    Args:
        field: the field's name, or "event" for the object as a whole.
        got: what came, as it came.
        wanted: what would have been right, in words.
        at: where the event stood, such as ``[3]`` in an array; empty for a single one.
    """

    def __init__(self, field: str, got: object, wanted: str, at: str = "") -> None:
        self.field, self.got, self.wanted = field, got, wanted
        super().__init__(f"{at + '.' if at else ''}{cut(field)}: got {quote(got)}, wanted {wanted}")


class Conflict(InvalidInput):
    """An event whose id has come before, with another content. It has not counted; others of its call have.

    Args:
        event_id: as it came.
        before, now: fingerprints of both contents, "" where the first is not remembered any more.
        changed: names of the fields that differ.
        at: where it stood, as in InvalidEvent.
    """

    http_status = 409
    grpc_status = "ALREADY_EXISTS"

    def __init__(self, event_id: object, before: str, now: str, changed: str, at: str = "") -> None:
        self._given = event_id, before, now, changed
        super().__init__(
            f"{at + '.' if at else ''}event_id: got {quote(event_id)}, which has come with another content: "
            f"{changed or 'some field'} ({before or 'unknown'} then, {now} now); wanted an id of its own"
        )

    def at(self, where: str) -> Conflict:
        """The same, of an event that stood there."""
        return Conflict(*self._given, where)


class NotFound(VigilError):
    """Something asked for by name that does not exist; the message lists what does."""

    http_status = 404
    grpc_status = "NOT_FOUND"


class Unsupported(VigilError):
    """A body in an encoding that is not known here."""

    http_status = 415
    grpc_status = "UNIMPLEMENTED"


class TooLarge(VigilError):
    """A body or message over the limit, refused before it is read into memory."""

    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class Unauthenticated(VigilError):
    """A call without a key, or with one that is none."""

    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class Forbidden(VigilError):
    """A caller who is known, and may not do this; or a page of the web that would use who is at this machine."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class Overloaded(VigilError):
    """The queue is full: the caller should come back after `retry_after_s` seconds."""

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    retry_after_s: ClassVar[int] = 1


class RateLimited(VigilError):
    """One caller has used its own limit up; others are served.

    Args:
        rate: tokens a second that the caller gets.
        burst: how many it can save.
        wait_s: until its call could succeed; `retry_after_s` is that in whole seconds, at least 1.
    """

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"

    def __init__(self, rate: float, burst: float, wait_s: float) -> None:
        self.rate, self.burst, self.retry_after_s = rate, burst, max(1, math.ceil(wait_s))
        super().__init__(
            f"rate limit: this caller may send {rate:g} a second and {burst:g} at once; "
            f"try again in {self.retry_after_s} s"
        )


class DeadlineExceeded(VigilError):
    """The caller's deadline passed before its request could run; nothing was computed, nothing counted."""

    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


class Unavailable(VigilError):
    """The part that should answer is not there (no model loaded, a state store away)."""

    http_status = 503
    grpc_status = "UNAVAILABLE"


class ModelRefused(VigilError):
    """A stored model that is not what its manifest says, or not made for these features."""

    http_status = 503
    grpc_status = "FAILED_PRECONDITION"


class StateError(VigilError):
    """Feature state that cannot be used: not to be written, locked by another process, or made by another spec."""


class StreamError(VigilError):
    """A stream that cannot go on: taken over by another worker, or its broker refuses it."""


class ConfigError(VigilError):
    """A setting that is unknown or cannot be: the message gives the key, the value and what was wanted."""


class DataError(VigilError):
    """A history file that cannot be used: the message gives row, column, value and reason."""


def quote(value: object, limit: int = 60) -> str:
    """`value` as a short literal for a message: at most `limit` characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply to show"
    return cut(text, limit)


def cut(text: str, limit: int = 60) -> str:
    """`text` with at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
