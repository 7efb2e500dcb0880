"""Feature state made again from Kafka: all events and labels of topics, from their beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from vigil.domains.schema import Feedback, Schema, key_of
from vigil.domains.spec import Domain
from vigil.errors import InvalidEvent, InvalidInput
from vigil.features.compiled import layout
from vigil.features.memory.store import CHUNK, MemoryStore
from vigil.stream.kafka.topic_reader import TopicReader
from vigil.stream.topics import Topic

BATCH = 5000
Marks = dict[str, int]


def rebuild(
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
        progress: called with the number of offsets read of a topic.

    Raises:
        ConfigError, Unavailable: where a topic cannot be read.
        StreamError: where the broker ends the reader.
    """
    store, marks = MemoryStore(domain), Marks()
    labels: dict[int, Feedback] = {}
    for values in _values(feedback, properties, marks, progress):
        labels |= {
            key_of(item.event_id, store.schema.seed): item for item in store.schema.decode_feedback_each(values)[0]
        }
    read = _values(events, properties, marks, progress)
    batch = np.concatenate([store.pack([]), *(store.pack(_sound(store.schema, some, latest_ms)) for some in read)])
    batch = batch[np.argsort(batch[:, layout.B_TS], kind="stable")]
    keys = batch[:, layout.B_KEY].tolist()
    batch[:, layout.B_LABEL] = [labels[key].label if key in labels else -1 for key in keys]
    for start in range(0, len(batch), CHUNK):
        store.apply(batch[start : start + CHUNK])
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
) -> Iterator[list[bytes]]:
    """Values of all records that a topic has now; `marks` then say how far that was."""
    whole = TopicReader(topic, properties)
    for values, done in whole.batches(BATCH):
        progress(done)
        yield values
    marks.update({f"{topic.name}/{partition}": offset for partition, offset in whole.reached.items()})
