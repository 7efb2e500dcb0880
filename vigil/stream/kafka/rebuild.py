"""Feature state made again from Kafka: all events and labels of topics, from their beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from vigil.domains.schema import Feedback, Schema, key_of
from vigil.domains.spec import Domain
from vigil.errors import InvalidEvent, InvalidInput, StreamError
from vigil.features import kernel
from vigil.features.store import CHUNK, MemoryStore
from vigil.stream.kafka.clients import Topic, consumer, partitions

BATCH = 5000
GROUP = "vigil-rebuild"  # commits nothing
Marks = dict[str, int]


def rebuilt(
    domain: Domain,
    events: Topic,
    feedback: Topic,
    properties: Mapping[str, str],
    latest_ms: int,
    progress: Callable[[int], None],
) -> MemoryStore:
    """The state after all that the topics hold now, in order of event time. What cannot be scored is left out.

    A worker with this state in memory goes on behind what was read. All events are held at once, as numbers.

    Args:
        domain: whose events they are.
        properties: of Kafka's clients.
        latest_ms: events of a later time are left out, as a worker refuses them; epoch milliseconds.
        progress: called with the number of records read of a topic.

    Raises:
        ConfigError, Unavailable: where a topic cannot be read.
        StreamError: where the broker ends the reader.
    """
    store, marks = MemoryStore(domain), Marks()
    labels: dict[int, Feedback] = {}
    for values in _values(feedback, properties, marks, progress):
        labels |= {key_of(item.event_id): item for item in store.schema.decode_feedback_each(values)[0]}
    read = _values(events, properties, marks, progress)
    batch = np.concatenate([store.pack([]), *(store.pack(_sound(store.schema, some, latest_ms)) for some in read)])
    batch = batch[np.argsort(batch[:, kernel.B_TS], kind="stable")]
    keys = batch[:, kernel.B_KEY].tolist()
    batch[:, kernel.B_LABEL] = [labels[key].label if key in labels else -1 for key in keys]
    for start in range(0, len(batch), CHUNK):
        store.run(batch[start : start + CHUNK])
    known = set(keys)
    store.feedback([item for key, item in labels.items() if key not in known])
    store.marks.update(marks)
    return store


def _sound(schema: Schema, values: Sequence[bytes | None], latest_ms: int) -> list[Any]:
    """Events of those records that hold one."""
    found = []
    for event in schema.decode_each(values):
        with suppress(InvalidEvent):
            if not isinstance(event, InvalidInput) and schema.row(event)[0][1] <= latest_ms:
                found.append(event)
    return found


def _values(
    topic: Topic, properties: Mapping[str, str], marks: Marks, progress: Callable[[int], None]
) -> Iterator[list[bytes | None]]:
    """Values of all records that a topic has now; `marks` then say how far that was."""
    reader = consumer(topic, GROUP, properties)
    try:
        places = [TopicPartition(topic.name, partition, OFFSET_BEGINNING) for partition in partitions(reader, topic)]
        bounds = {place.partition: reader.get_watermark_offsets(place) for place in places}
        left = {partition for partition, (first, end) in bounds.items() if first < end}
        reader.assign(places)
        read = 0
        while left:
            taken, records = [], cast("list[Any]", reader.consume(BATCH, 0.1))
            for record in records:
                partition, offset = record.partition(), record.offset()
                if record.error() is None:
                    offset += 1
                    taken += [record] if partition in left else []
                else:
                    _refuse(record.error())
                if partition in left:
                    marks[f"{topic.name}/{partition}"] = offset
                    if offset >= bounds[partition][1] or record.error() is not None:
                        left.discard(partition)
            read += len(taken)
            progress(read)
            yield [record.value() for record in taken]
    except KafkaException as failure:
        raise StreamError(f"{topic.name}: {failure.args[0].str()}") from None
    finally:
        reader.close()


def _refuse(error: KafkaError) -> None:
    if error.code() != KafkaError._PARTITION_EOF:
        raise StreamError(f"the topic cannot be read on: {error.str()}")
