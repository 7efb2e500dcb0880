"""Dead letters: records that cannot be scored, kept as they came, with why and from where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import methodcaller
from typing import Any

from confluent_kafka import TopicPartition

from vigil.errors import InvalidInput, StreamError
from vigil.stream.kafka.commits import Commits, Headers, Work, begin_writer
from vigil.stream.kafka.config import consumer, end_or_note, producer
from vigil.stream.kafka.metadata import committed, partitions
from vigil.stream.topics import Topic

REASON, TOPIC, PARTITION, OFFSET = "vigil-reason", "vigil-topic", "vigil-partition", "vigil-offset"
OURS = (REASON, TOPIC, PARTITION, OFFSET)
BATCH = 1000
# Of a record: by default a broker takes a million, with all that is put around it.
MOST_BYTES, MOST_AROUND = 900_000, 50_000
ITEM_BYTES = 20  # around a header, at most

# The client gives a list and an error at once: a plain call sees the list alone, and the error comes up later.
_headers = methodcaller("headers")


def sizes(records: Sequence[Any]) -> list[int]:
    """Bytes of each record: value, key and headers."""
    found = []
    for record in records:
        key, headers = record.key(), headers_of(record)
        size = len(record) + (len(key) if key else 0)
        found.append(size + sum(map(_size, headers)) if headers else size)
    return found


def headers_of(record: Any) -> list[tuple[str, bytes | None]]:
    """The headers of a record; none where the client cannot give them, as a name is no UTF-8."""
    try:
        came: list[tuple[str, bytes | None]] = _headers(record) or []
        return came
    except SystemError:
        record.set_headers([])  # asked again, it would give a list with holes
        return []


def _size(header: tuple[str, bytes | None]) -> int:
    name, value = header
    return len(name.encode()) + len(value or b"") + ITEM_BYTES


def letter(record: Any, why: InvalidInput) -> tuple[bytes | None, bytes | None, Headers]:
    """Value, key and headers of the dead letter of a record: as it came, the headers with ours on top.

    Of a value over `MOST_BYTES` the beginning only, of key and headers what has room beside it: the whole of it is
    where the headers say.
    """
    place = [(TOPIC, record.topic()), (PARTITION, str(record.partition())), (OFFSET, str(record.offset()))]
    value, key, kept = record.value(), record.key(), Headers()
    value = value and value[:MOST_BYTES]
    room = MOST_BYTES + MOST_AROUND - len(value or b"")
    key = key and key[:room]
    room -= len(key or b"")
    for item in headers_of(record):
        if item[0] not in OURS and (room := room - _size(item)) >= 0:
            kept.append(item)
    return value, key, [*kept, (REASON, str(why)), *place]


def replay(letters: Topic, group: str, properties: Mapping[str, str], stopped: Callable[[], bool]) -> int:
    """Puts all dead letters that there are back where they came from, each once; the workers then take them as new.

    How far that has gone is kept by the group `{group}-dead-letters`, so a letter that dies again is not put
    back before the next call.

    Args:
        letters: the topic of dead letters.
        group: the workers' group.
        properties: of Kafka's clients.
        stopped: asked between batches.

    Returns:
        how many.

    Raises:
        ConfigError, Unavailable: where the topic cannot be read.
        StreamError: where a letter does not say where it came from.
    """
    name = f"{group}-dead-letters"
    reader = consumer(letters, name, properties)
    ends = {p: reader.get_watermark_offsets(_at(letters, p))[1] for p in partitions(reader, letters)}
    more = {"transactional.id": name, "transaction.timeout.ms": 10_000}
    commits = Commits(begin_writer(partial(producer, letters, properties, **more)), reader)
    known = committed(reader, [_at(letters, p) for p in ends])
    left = {p for p, end in ends.items() if end > 0 and _known(known, p) < end}
    reader.assign(known)
    count = 0
    try:
        while left and not stopped():
            work = Work()
            records: list[Any] = reader.consume(BATCH, 0.1)
            for record in records:
                if record.error() is not None:
                    _ended(record, left)
                elif record.partition() in left:
                    work.outputs.append(_returned(record))
                    work.offsets[record.topic(), record.partition()] = record.offset() + 1
                    if record.offset() + 1 >= ends[record.partition()]:
                        left.discard(record.partition())
            if work.outputs:
                commits.put(work)
                commits.drain()
                if commits.aborted:
                    raise StreamError("a transaction was aborted; what was put back stays, call again for the rest")
                count += len(work.outputs)
    finally:
        commits.close()
        reader.close()
    return count


def _at(topic: Topic, partition: int) -> TopicPartition:
    return TopicPartition(topic.name, partition)


def _known(places: Sequence[TopicPartition], partition: int) -> int:
    return next(int(at.offset) for at in places if at.partition == partition)


def _ended(record: Any, left: set[int]) -> None:
    error = record.error()
    if error.code() == error._PARTITION_EOF:
        left.discard(record.partition())
    else:
        end_or_note(error)


def _returned(record: Any) -> tuple[str, bytes | None, bytes | None, Headers]:
    headers = headers_of(record)
    origin = dict(headers).get(TOPIC)
    if not origin:
        raise StreamError(f"dead letter {record.partition()}/{record.offset()} has no header {TOPIC}")
    kept: Headers = [item for item in headers if item[0] not in OURS]
    return origin.decode(), record.value(), record.key(), kept
