"""A whole topic, from its beginning to where it ends now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import TopicPartition

from vigil.errors import StreamError
from vigil.stream.kafka.config import consumer
from vigil.stream.kafka.metadata import bounds, partitions
from vigil.stream.topics import Topic

WAIT_S = 1.0


class TopicReader:
    """What has been committed to a topic, partition by partition as it comes. No group is touched.

    Args:
        topic: which.
        properties: of Kafka's client.

    `total` says how many offsets that are; markers of transactions are among them. `reached` is the next offset to
    read of each partition.

    Raises:
        ConfigError, Unavailable: where the topic cannot be read.
    """

    unit = "offsets"

    def __init__(self, topic: Topic, properties: Mapping[str, str]) -> None:
        self._reader = consumer(topic, "vigil-whole", properties)
        self._name = topic.name
        self._bounds = {number: bounds(self._reader, topic.name, number) for number in partitions(self._reader, topic)}
        self.reached = {number: start for number, (start, _) in self._bounds.items()}
        self.total = sum(end - start for start, end in self._bounds.values())

    def batches(self, size: int) -> Iterator[tuple[list[bytes], int]]:
        """Values of at most `size` records, and of how many offsets that is the end.

        Raises:
            StreamError: where it cannot be read on.
        """
        left = {number for number, (start, end) in self._bounds.items() if start < end}
        reached = self.reached
        self._reader.assign([TopicPartition(self._name, number, reached[number]) for number in left])
        begun = sum(reached.values())
        try:
            while left:
                values = []
                records: list[Any] = self._reader.consume(size, WAIT_S)
                for record in records:
                    number, error = record.partition(), record.error()
                    if error is None and number in left:
                        values.append(record.value() or b"")
                        reached[number] = record.offset() + 1
                        if reached[number] >= self._bounds[number][1]:
                            left.discard(number)
                    elif error is not None and error.code() == error._PARTITION_EOF:
                        reached[number] = max(record.offset(), reached[number])
                        left.discard(number)
                    elif error is not None:
                        raise StreamError(f"topic {self._name!r} cannot be read on: {error.str()}")
                if values:
                    yield values, sum(reached.values()) - begun
        finally:
            self._reader.close()
