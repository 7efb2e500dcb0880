"""Kafka topics by address and by name."""

from __future__ import annotations

from dataclasses import dataclass

from vigil.errors import ConfigError

SCHEME = "kafka://"


@dataclass(frozen=True)
class Topic:
    """A Kafka topic and the brokers that know it, `host:port` separated by commas."""

    brokers: str
    name: str

    @classmethod
    def parse(cls, address: str) -> Topic:
        """Reads `kafka://host:port[,host:port...]/topic`.

        Raises:
            ConfigError: for anything else.
        """
        brokers, _, name = address.removeprefix(SCHEME).partition("/")
        parts = [broker.rpartition(":") for broker in brokers.split(",")]
        if not (address.startswith(SCHEME) and name) or not all(host and port.isdigit() for host, _, port in parts):
            raise ConfigError(f"address {address!r}: wanted kafka://host:port/topic")
        return cls(brokers, name)


@dataclass(frozen=True)
class Topics:
    """What a stream worker reads and writes, all on the brokers of `events`, and its consumer group.

    Args:
        events: read.
        decisions: written.
        feedback: the name of the topic with labels, read.
        alerts: the name of the topic with decisions that block, written.
        dead_letters: the name of the topic with what cannot be scored, written.
        group: of the workers.
    """

    events: Topic
    decisions: Topic
    feedback: str = "vigil.feedback"
    alerts: str = "vigil.alerts"
    dead_letters: str = "vigil.dead-letter"
    group: str = "vigil"
