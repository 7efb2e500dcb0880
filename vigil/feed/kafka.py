"""A simulated feed poured into Kafka: events into one topic, the labels that become known into another."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vigil.domains.schema import Feedback
from vigil.domains.spec import Domain
from vigil.errors import StreamError
from vigil.feed.simulator import Simulated
from vigil.stream.kafka.config import consumer, producer
from vigil.stream.kafka.metadata import partitions
from vigil.stream.topics import Topic


class KafkaOutlet:
    """Events keyed by their first entity, so that those of one entity stay in order; labels keyed by event.

    Args:
        topic: for events.
        domain: whose events they are.
        feedback: name of the topic for labels.
        properties: of Kafka's client.

    Raises:
        ConfigError, Unavailable: where the topic cannot be written.
    """

    def __init__(self, topic: Topic, domain: Domain, feedback: str, properties: Mapping[str, str]) -> None:
        probe = consumer(topic, "vigil-simulate", properties)
        for name in (topic.name, feedback):
            partitions(probe, Topic(topic.brokers, name))
        probe.close()
        self._writer = producer(topic, dict(properties) | {"linger.ms": "5"})
        self._topic, self._feedback, self._key = topic.name, feedback, domain.entities[0].name
        self._encode = msgspec.json.Encoder().encode

    def put(self, step: Simulated) -> None:
        """As the protocol says."""
        if step.event is None:
            value = self._encode(Feedback(step.event_id, step.label))
            self._produce(self._feedback, value, step.event_id)
        else:
            self._produce(self._topic, self._encode(step.event), str(step.event[self._key]))

    def flush(self) -> None:
        """As the protocol says."""
        self._writer.poll(0)

    def close(self) -> None:
        """As the protocol says.

        Raises:
            StreamError: where the brokers do not take it within a minute.
        """
        if left := self._writer.flush(60):
            raise StreamError(f"{left} records did not reach Kafka")

    def _produce(self, topic: str, value: bytes, key: str) -> None:
        while True:
            try:
                self._writer.produce(topic, value, key)
                return
            except BufferError:  # the brokers are slower than the feed: let them take some
                self._writer.poll(0.1)
