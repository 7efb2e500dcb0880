"""Topics as ends of a stream whose other end is a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from vigil.domains.schema import Schema
from vigil.errors import StreamError
from vigil.stream.endpoints import Batch, Guarantee
from vigil.stream.kafka.config import consumer, end_or_note, producer
from vigil.stream.kafka.event_order import FULL, EventOrder
from vigil.stream.kafka.metadata import partitions
from vigil.stream.topics import Topic

READ, READ_S = 5000, 0.1
TAKEN_S = 60.0


class TopicEvents:
    """Committed records of a topic, from its beginning in each run; a run that was cut short is run again.

    Args:
        topic: of the events.
        schema: of their domain, which says their times.
        properties: of Kafka's client.
        order: merges the partitions by event time.
        stop_at_end: whether the end of all partitions ends it; else it reads on.

    Raises:
        ConfigError, Unavailable: where the topic cannot be read.
    """

    guarantee = Guarantee.AT_LEAST_ONCE

    def __init__(
        self, topic: Topic, schema: Schema, properties: Mapping[str, str], order: EventOrder, stop_at_end: bool
    ) -> None:
        self._reader = consumer(topic, "vigil-ends", properties)
        self._order, self._stop_at_end, self._decode = order, stop_at_end, schema.decode_each
        found = partitions(self._reader, topic)
        self._reader.assign([TopicPartition(topic.name, partition, OFFSET_BEGINNING) for partition in found])
        order.open(found, time.monotonic())

    def batches(self, size: int) -> Iterator[Batch]:
        """As the protocol says.

        Raises:
            StreamError: where it cannot be read on.
        """
        first = 1
        while not (self._stop_at_end and self._order.done):
            if self._order.waiting < FULL:
                self._read()
            taken, _ = self._order.take(size, time.monotonic())
            for start in range(0, len(taken), size):
                values = [record.value() or b"null" for record in taken[start : start + size]]
                yield Batch(values, first)
                first += len(values)
        self._reader.close()

    def _read(self) -> None:
        records, ended = list[Any](), list[Any]()
        for record in self._reader.consume(READ, 0 if self._order.waiting else READ_S):
            error = record.error()
            if error is None:
                records.append(record)
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.append(record.partition())
            else:
                end_or_note(error)
        if records:
            self._order.add(records, self._decode([record.value() for record in records]), time.time_ns() // 1_000_000)
        for partition in ended:
            self._order.partitions[partition].ended = True


class TopicOut:
    """Decision records in a topic, each batch there before the next one is read. Another run adds them again.

    Args:
        topic: for the records.
        properties: of Kafka's client.
        key: the field of an event whose value is its record's key.

    Raises:
        ConfigError, Unavailable: where the topic cannot be written.
    """

    guarantee = Guarantee.AT_LEAST_ONCE

    def __init__(self, topic: Topic, properties: Mapping[str, str], key: str) -> None:
        probe = consumer(topic, "vigil-ends", properties)
        partitions(probe, topic)
        probe.close()
        self._writer, self._topic = producer(topic, properties), topic.name
        event = msgspec.defstruct("Event", [(key, int | str)])
        self._decode: Any = msgspec.json.Decoder(msgspec.defstruct("Keyed", [("event", event)])).decode
        self._key, self._failure = key, ""

    def write(self, records: Sequence[bytes]) -> None:
        """As the protocol says.

        Raises:
            StreamError: where the brokers do not take them within a minute, or one is too large for them.
        """
        for record in records:
            key = str(getattr(self._decode(record).event, self._key))
            try:
                self._writer.produce(self._topic, record, key, on_delivery=self._on_delivery)
            except KafkaException as failure:
                self._failure = f"{failure.args[0].str()} ({len(record):,} bytes)"
        left = self._writer.flush(TAKEN_S)
        if left or self._failure:
            raise StreamError(f"{left or 'some'} records did not reach {self._topic}: {self._failure or 'no answer'}")

    def close(self) -> None:
        """As the protocol says."""

    def _on_delivery(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._failure = error.str()
