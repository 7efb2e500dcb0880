"""An event's schema: decoding, validation with messages a person can use, and packing for the kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from vigil.domains.spec import Domain
from vigil.domains.times import ANY_TIME, Times
from vigil.errors import InvalidEvent, InvalidInput, cut, quote

# Text that is not UTF-8 has an exception of its own, and so has what is nested thousands of times.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MAX_KEY = 128
PIECE = 256  # texts of a long array that are decoded at once
FEEDBACK = ("event_id", "label")
_raw = msgspec.json.Decoder(list[msgspec.Raw])
TS_WANTED = "an RFC 3339 time with an offset, or epoch milliseconds (UTC)"
KEY_WANTED = f"a string of 1 to {MAX_KEY} characters, or an integer of no more"


class _Missing:
    """What came where nothing came."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The true label of an earlier event: 1 for a bad one, 0 for a good one."""

    event_id: str | int
    label: int


class Schema:
    """Everything about one domain's events as data.

    Args:
        domain: the domain whose events these are.
        seed: of the hash that makes keys of event ids, 64 bits.
    """

    def __init__(self, domain: Domain, seed: int = 0) -> None:
        self.domain = domain
        self.entities = tuple(entity.name for entity in domain.entities)
        self.fields = ("event_id", "ts", *self.entities, *(number.name for number in domain.numbers))
        key = str | int
        columns: list[tuple[str, Any]] = [("event_id", key), ("ts", datetime | int)]
        columns += [(name, key) for name in self.entities]
        columns += [(number.name, float) for number in domain.numbers]
        self.struct = msgspec.defstruct(
            f"{domain.name.title().replace('_', '')}Event", columns, forbid_unknown_fields=True, gc=False
        )
        self._one: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.struct)
        self._many: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[self.struct])  # type: ignore[name-defined]
        self._feedback: msgspec.json.Decoder[Feedback] = msgspec.json.Decoder(Feedback)
        self._feedbacks: msgspec.json.Decoder[list[Feedback]] = msgspec.json.Decoder(list[Feedback])
        self._numbers = [(n.name, n.above, n.at_least, n.at_most, n.per_unit) for n in domain.numbers]
        self.seed = seed

    @property
    def seed(self) -> int:
        """Of the hash that makes keys of event ids: who does not know it cannot choose ids that meet in a key."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed = seed
        self._row = cast("Callable[[Any, int, int], tuple[list[int], list[str]]]", _compile_row(self))

    def decode(self, body: bytes | memoryview) -> tuple[list[Any], bool]:
        """Events of a JSON body: one object, or an array of them.

        Returns:
            the events, and whether it was an array.

        Raises:
            InvalidEvent: naming the field, what came and what was wanted.
            InvalidInput: where the body is not JSON at all or an empty array.
        """
        array = is_array(body)
        try:
            events = self._many.decode(body) if array else [self._one.decode(body)]
        except UNREADABLE:
            raise self._explained(body, array) from None
        if not events:
            raise InvalidInput("events: got an empty array, wanted at least one event")
        return events, array

    def decode_slowly(self, body: bytes) -> Iterator[list[Any]]:
        """As `decode` of a long array: its events, some at a time, so that others can have their turn."""
        return _in_pieces(body, self._many, self._one, self.fields, self.check)

    def decode_feedback_slowly(self, body: bytes) -> Iterator[list[Feedback]]:
        """As `decode_feedback` of a long array: its labels, some at a time."""
        first = 0
        for labels in _in_pieces(body, self._feedbacks, self._feedback, FEEDBACK, _check_feedback):
            for i, item in enumerate(labels, first):
                _check_label(item, f"[{i}]")
            first += len(labels)
            yield labels

    def decode_feedback(self, body: bytes | memoryview) -> tuple[list[Feedback], bool]:
        """Labels of a JSON body, `{"event_id": ..., "label": 0 or 1}` or an array of them.

        Raises:
            InvalidEvent: naming the field, what came and what was wanted.
        """
        array = is_array(body)
        try:
            labels = self._feedbacks.decode(body) if array else [self._feedback.decode(body)]
        except UNREADABLE:
            raise _explain(body, array, FEEDBACK, _check_feedback) from None
        if not labels:
            raise InvalidInput("feedback: got an empty array, wanted at least one label")
        for i, item in enumerate(labels):
            _check_label(item, f"[{i}]" if array else "")
        return labels, array

    def decode_each(self, values: Sequence[bytes | None]) -> list[Any]:
        """The event of each of many JSON texts; in place of one that is wrong, the InvalidInput that says why."""
        events, refused = _decode_each(self._one, values, lambda body: self.decode(body)[0][0])
        for place, why in refused.items():
            events.insert(place, why)
        return events

    def decode_feedback_each(self, values: Sequence[bytes | None]) -> tuple[list[Feedback], dict[int, InvalidInput]]:
        """Labels of many JSON texts, and why a text holds none, by its place in `values`."""
        labels, refused = _decode_each(self._feedback, values, self._one_label)
        if not refused and all(item.label in (0, 1) for item in labels):
            return labels, refused
        return _one_by_one(values, self._one_label)

    def _one_label(self, body: bytes) -> Feedback:
        return self.decode_feedback(body)[0][0]

    def make(self, values: Mapping[str, Any], at: str = "") -> Any:
        """An event from plain values, as from a row of a history or a message of another transport.

        Raises:
            InvalidEvent: as `decode`.
        """
        self.check(values, at)
        return msgspec.convert(dict(values), self.struct)

    def row(self, event: Any, at: str = "", times: Times = ANY_TIME) -> tuple[list[int], list[str]]:
        """An event as the kernel takes it.

        Args:
            event: of `struct`.
            at: where it stood, as in InvalidEvent.
            times: between which it may lie.

        Returns:
            `[key, ts_ms, quanta of each number]` and the key of each entity.

        Raises:
            InvalidEvent: for a value that has the right type but cannot be.
        """
        try:
            return self._row(event, times.earliest_ms, times.latest_ms)
        except (ValueError, OverflowError):
            self.check({name: getattr(event, name) for name in self.fields}, at)
            raise times.refusal(ts_ms(event.ts), at) or AssertionError("refused for no reason") from None

    def columns(self, events: Sequence[Any], times: Times = ANY_TIME) -> npt.NDArray[np.int64]:
        """What `row` gives of each of many events, without the keys of entities, in a third of the time.

        Returns:
            int64 [n, 2 + numbers]: key, ts_ms, quanta of each number.

        Raises:
            InvalidEvent: for the first event with a value that has the right type but cannot be.
        """
        out = np.empty((len(events), 2 + len(self._numbers)), np.int64)
        try:
            out[:, 0] = keys_of([event.event_id for event in events], self.seed)
            out[:, 1] = times_ms([event.ts for event in events])
            good = (out[:, 1] >= times.earliest_ms) & (out[:, 1] <= times.latest_ms)
            for j, (name, above, at_least, at_most, per_unit) in enumerate(self._numbers):
                values = np.array(list(map(attrgetter(name), events)), np.float64)
                good &= values <= at_most
                if above is not None:
                    good &= values > above
                if at_least is not None:
                    good &= values >= at_least
                out[:, 2 + j] = np.rint(np.where(good, values, 0.0) * per_unit)
        except (ValueError, OverflowError):
            good = np.zeros(1, bool)
        if not good.all():
            for event in events:
                self.row(event, times=times)
        return out

    def check(self, values: Mapping[str, Any], at: str = "") -> None:
        """Raises InvalidEvent for the first field of `values` that is missing, unknown or cannot be."""
        if not isinstance(values, Mapping):
            raise InvalidEvent("event", values, "an object with the fields " + ", ".join(self.fields), at)
        for name in values:
            if name not in self.fields:
                raise InvalidEvent(str(name), values[name], "one of the fields " + ", ".join(self.fields), at)
        for name in self.fields:
            if name not in values:
                raise InvalidEvent(name, MISSING, self._wanted(name), at)
        for name in ("event_id", *self.entities):
            _check_key(name, values[name], at)
        _check_ts(values["ts"], at)
        for number in self.domain.numbers:
            value = values[number.name]
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or (isinstance(value, float) and not math.isfinite(value))
                or (number.above is not None and value <= number.above)
                or (number.at_least is not None and value < number.at_least)
                or value > number.at_most
            ):
                raise InvalidEvent(number.name, value, number.wanted, at)

    def _wanted(self, name: str) -> str:
        if name == "ts":
            return TS_WANTED
        return next((number.wanted for number in self.domain.numbers if number.name == name), KEY_WANTED)

    def _explained(self, body: bytes | memoryview, array: bool) -> InvalidInput:
        return _explain(body, array, self.fields, self.check)


def is_array(body: bytes | memoryview) -> bool:
    """Whether JSON is to be an array."""
    return bytes(body[:64]).lstrip()[:1] == b"["


def _in_pieces(
    body: bytes,
    many: msgspec.json.Decoder[list[Any]],
    one: msgspec.json.Decoder[Any],
    fields: tuple[str, ...],
    check: Callable[[Any, str], None],
) -> Iterator[list[Any]]:
    try:
        raw = _raw.decode(body)
    except UNREADABLE as failure:
        raise _unreadable(failure, fields) from None
    for start in range(0, len(raw), PIECE):
        part = raw[start : start + PIECE]
        try:
            yield many.decode(b"[" + b",".join(part) + b"]")
        except UNREADABLE:
            for i, text in enumerate(map(bytes, part), start):
                try:
                    one.decode(text)
                except UNREADABLE:
                    raise _explain(text, False, fields, partial(_check_at, check, f"[{i}]")) from None
            raise


def _check_at(check: Callable[[Any, str], None], at: str, values: Any, _: str) -> None:
    check(values, at)


def _check_label(item: Feedback, at: str) -> None:
    if item.label not in (0, 1):
        raise InvalidEvent("label", item.label, "0 or 1", at)
    _check_key("event_id", item.event_id, at)


def _decode_each(
    decoder: msgspec.json.Decoder[Any], values: Sequence[bytes | None], one: Callable[[bytes], Any]
) -> tuple[list[Any], dict[int, InvalidInput]]:
    try:
        lines = b"\n".join(values)  # type: ignore[arg-type]
        # A line for each text, an object begun by each line, and as many objects: so each is of its own text.
        if lines.startswith(b"{") and lines.count(b"\n") == lines.count(b"\n{") == len(values) - 1:
            items = decoder.decode_lines(lines)
            if len(items) == len(values):
                return items, {}
    except (TypeError, *UNREADABLE):
        pass
    return _one_by_one(values, one)


def _one_by_one(
    values: Sequence[bytes | None], one: Callable[[bytes], Any]
) -> tuple[list[Any], dict[int, InvalidInput]]:
    items, refused = [], {}
    for place, value in enumerate(values):
        try:
            if not (value or b"").lstrip().startswith(b"{"):
                came = value.decode(errors="replace") if value else MISSING
                raise InvalidInput(f"body: got {quote(came)}, wanted a JSON object")
            items.append(one(value or b""))
        except InvalidInput as failure:
            refused[place] = failure
    return items, refused


def key_of(event_id: str | int, seed: int) -> int:
    """The 64-bit key of an event id (xxh3 with a seed, as a signed integer). 5 and "5" are the same event."""
    key: int = xxh3_64_intdigest(str(event_id).encode(), seed)
    return key - (1 << 64) if key >> 63 else key


def keys_of(event_ids: Sequence[str | int], seed: int) -> npt.NDArray[np.int64]:
    """The key of each of many event ids, as `key_of` gives it.

    Raises:
        ValueError: where one is too long, or empty.
    """
    kinds = set(map(type, event_ids))
    texts = cast("Sequence[str]", event_ids) if kinds <= {str} else map(str, event_ids)
    if kinds != {int}:
        texts = list(texts)
        lengths = set(map(len, texts))
        if lengths and not 0 < min(lengths) <= max(lengths) <= MAX_KEY:
            raise ValueError("a key of no or too many characters")
    keys = map(xxh3_64_intdigest, map(str.encode, texts), repeat(seed))
    return np.fromiter(keys, np.uint64, len(event_ids)).view(np.int64)


def ts_ms(ts: datetime | int) -> int:
    """A time as epoch milliseconds."""
    return ts if isinstance(ts, int) else round(ts.timestamp() * 1000)


def times_ms(values: Sequence[datetime | int]) -> npt.NDArray[np.int64]:
    """Times as epoch milliseconds, int64 [n].

    Raises:
        ValueError, OverflowError: where one has no offset from UTC, or cannot be.
    """
    kinds = set(map(type, values))
    if kinds <= {int}:
        return np.fromiter(values, np.int64, len(values))
    if kinds <= {datetime} and None not in {ts.tzinfo for ts in values}:  # type: ignore[union-attr]
        seconds = np.fromiter((ts.timestamp() for ts in values), np.float64, len(values))  # type: ignore[union-attr]
        return np.rint(seconds * 1000).astype(np.int64)
    return np.array([ts if isinstance(ts, int) else ts_ms(_aware(ts)) for ts in values], np.int64)


def _check_key(name: str, value: object, at: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidEvent(name, value, KEY_WANTED, at)
    if not 1 <= len(str(value)) <= MAX_KEY:
        raise InvalidEvent(name, value, KEY_WANTED, at)


def _check_ts(value: object, at: str) -> None:
    if isinstance(value, str):
        try:
            value = msgspec.convert(value, datetime)  # takes what the decoder of events takes
        except msgspec.ValidationError:
            raise InvalidEvent("ts", value, TS_WANTED, at) from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidEvent("ts", value.isoformat(), TS_WANTED, at)
        value = ts_ms(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidEvent("ts", value, TS_WANTED, at)
    if refusal := ANY_TIME.refusal(value, at):
        raise refusal


def _check_feedback(values: Mapping[str, Any], at: str = "") -> None:
    if not isinstance(values, Mapping):
        raise InvalidEvent("feedback", values, "an object with event_id and label", at)
    for name in values:
        if name not in ("event_id", "label"):
            raise InvalidEvent(str(name), values[name], "one of the fields event_id, label", at)
    _check_key("event_id", values.get("event_id", MISSING), at)
    label = values.get("label", MISSING)
    if isinstance(label, bool) or label not in (0, 1):
        raise InvalidEvent("label", label, "0 or 1", at)


def _explain(
    body: bytes | memoryview, array: bool, fields: tuple[str, ...], check: Callable[[Any, str], None]
) -> InvalidInput:
    """The slow path of a failed decode: finds the field that is wrong and says so."""
    try:
        values = msgspec.json.decode(body)
    except UNREADABLE as failure:
        return _unreadable(failure, fields)
    try:
        for i, item in enumerate(values if array else [values]):
            check(item, f"[{i}]" if array else "")
    except InvalidInput as invalid:
        return invalid
    return InvalidInput(f"body: wanted JSON with the fields {', '.join(fields)}")


def _unreadable(failure: Exception, fields: tuple[str, ...]) -> InvalidInput:
    return InvalidInput(f"body: {cut(_lower(str(failure)), 200)}; wanted JSON with the fields {', '.join(fields)}")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _compile_row(schema: Schema) -> Any:
    """Builds the packing of one event as straight code: it runs for every event of the hot path."""
    low = []
    for name, above, at_least, at_most, _ in schema._numbers:
        conditions = [f"{name} <= {at_most!r}"]
        if above is not None:
            conditions.append(f"{name} > {above!r}")
        if at_least is not None:
            conditions.append(f"{name} >= {at_least!r}")
        low.append(f"    {name} = e.{name}\n    if not ({' and '.join(conditions)}): raise ValueError\n")
    keys = [
        f"    {name} = e.{name}\n"
        f"    if {name}.__class__ is not str: {name} = str({name})\n"
        f"    if not 0 < len({name}) <= {MAX_KEY}: raise ValueError\n"
        for name in ("event_id", *schema.entities)
    ]
    source = (
        "def row(e, earliest, latest):\n"
        "    ts = e.ts\n"
        "    if ts.__class__ is not int: ts = ts_ms(aware(ts))\n"
        "    if not earliest <= ts <= latest: raise ValueError\n"
        + "".join(low)
        + "".join(keys)
        + f"    key = xxh3(event_id.encode(), {schema.seed})\n"
        + "    if key >> 63: key -= 18446744073709551616\n"
        + f"    return [key, ts, {', '.join(f'round({n} * {f!r})' for n, *_, f in schema._numbers)}], "
        + f"[{', '.join(schema.entities)}]\n"
    )
    scope: dict[str, Any] = {"ts_ms": ts_ms, "xxh3": xxh3_64_intdigest, "aware": _aware}
    exec(compile(source, f"<row of {schema.domain.name}>", "exec"), scope)
    return scope["row"]


def _aware(ts: datetime) -> datetime:
    if ts.tzinfo is None:
        raise ValueError("naive time")
    return ts
