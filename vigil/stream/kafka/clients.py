"""Addresses, settings and errors of Kafka's clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from vigil.errors import ConfigError, StreamError, Unavailable, shown

logger = logging.getLogger("vigil.stream")

SCHEME = "kafka://"
ANSWER_S = 15.0
COORDINATOR_S = 60.0  # a fresh cluster makes it when it is first asked for
NOTE_EVERY_S = 10.0
LOOK_AGAIN_S = 0.5

# The group's coordinator is being made, or moves.
MOVING = (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR)
# A topic is not there, or just being made.
ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE)
# A partition's leader has just gone.
LEADERLESS = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._TRANSPORT)

# What exactness rests on: not to be set from outside.
OURS = (
    "bootstrap.servers", "group.id", "group.instance.id", "enable.auto.commit", "enable.auto.offset.store",
    "isolation.level", "transactional.id", "enable.idempotence", "partition.assignment.strategy",
    "enable.partition.eof", "auto.offset.reset", "partitioner",
)  # fmt: skip
# Waits of librdkafka that by default are made for few clients and large broker clusters.
CLIENT = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 1000, "log_level": 0}
READER: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    # Shares out each topic by itself. The cooperative one counts all topics together: of two workers it gives
    # one the events and the other the labels.
    "partition.assignment.strategy": "range",
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 500,
    "fetch.wait.max.ms": 10,
    "fetch.queue.backoff.ms": 5,
    "queued.min.messages": 50_000,
}
WRITER = {
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "compression.type": "lz4",
    "linger.ms": 0.5,  # a transaction is waited for; what it holds is produced faster than that anyway
    "batch.size": 1_000_000,
    "batch.num.messages": 20_000,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 1_048_576,
    "retry.backoff.ms": 1,
    "retry.backoff.max.ms": 10,
}


class Displaced(StreamError):
    """A consumer whose place in the group was taken: by another one of the same name, or by an older request of its
    own, as after a restart of the broker.

    Attributes:
        decided: decisions committed until then.
        by_itself: whether it was taken by a request of its own.
    """

    decided, by_itself = 0, False


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


def read_properties(path: Path | None) -> dict[str, str]:
    """Settings of librdkafka in a file of `key=value` lines, as `security.protocol=SASL_SSL`; `#` begins a comment.

    Raises:
        ConfigError: where the file cannot be read, a line is none, or sets what a stream's exactness rests on.
    """
    if path is None:
        return {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigError(f"{path}: cannot be read ({failure})") from None
    found = {}
    for number, line in enumerate(lines, 1):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not (key and equals):
            raise ConfigError(f"{path}, line {number}: wanted key=value")
        if key in OURS:
            raise ConfigError(f"{path}, line {number}: {key} is not to be set: the stream depends on its own value")
        found[key] = value
    return found


def consumer(topic: Topic, group: str, properties: Mapping[str, str], **more: Any) -> Consumer:
    """A consumer of committed records. Once it cannot go on, its next call raises Displaced.

    Raises:
        ConfigError: for a property that librdkafka does not take.
    """
    values = CLIENT | READER | {"group.id": group, "error_cb": end_or_note} | dict(properties) | more
    made: Consumer = _made(Consumer, topic, values)
    return made


def producer(topic: Topic, properties: Mapping[str, str], **more: Any) -> Producer:
    """An idempotent producer.

    Raises:
        ConfigError: for a property that librdkafka does not take.
    """
    made: Producer = _made(Producer, topic, CLIENT | WRITER | dict(properties) | more)
    return made


def _made(kind: Any, topic: Topic, values: Mapping[str, Any]) -> Any:
    values = {"bootstrap.servers": topic.brokers, "error_cb": _note} | dict(values)
    try:
        return kind(values)
    except KafkaException as failure:
        raise ConfigError(f"Kafka properties: {failure.args[0].str()}") from None
    except (ValueError, TypeError) as failure:
        raise ConfigError(f"Kafka properties: {failure}") from None


_noted: dict[int, float] = {}


def _note(error: Any) -> None:
    """Says what a client complains of, each kind once in a while: while a broker is away it does all the time."""
    now_s = monotonic()
    if now_s - _noted.get(error.code(), -NOTE_EVERY_S) >= NOTE_EVERY_S:
        _noted[error.code()] = now_s
        logger.warning("Kafka: %s", error.str())


def end_or_note(error: Any) -> None:
    """Raises Displaced where `error` ends a consumer, else says it.

    It may come as a record or by the callback (what that raises is raised by the consumer's call). Of either,
    `fatal()` is false: it is the code that says so.
    """
    if error.fatal() or error.code() == KafkaError._FATAL:
        raise Displaced(f"this worker cannot read on and ends: {error.str()}")
    _note(error)


def check_reading(client: Consumer) -> None:
    """Raises Displaced where a consumer cannot read on, as one whose place another of the same name has taken.

    Such an error is told once, and that can get lost among records. But nothing can be committed after it:
    librdkafka says so even of a commit of no offset, which otherwise says that there is none, and asks no broker.
    """
    try:
        client.commit(offsets=[], asynchronous=False)
    except KafkaException as failure:
        if failure.args[0].code() == KafkaError._FATAL:
            raise Displaced("this worker cannot read on and ends: its place in the group was taken") from None


def partitions(client: Consumer, topic: Topic) -> list[int]:
    """The partitions of a topic.

    Raises:
        Unavailable: where no broker answers.
        ConfigError: where there is no such topic, or it may not be read.
    """
    found = _partitions(client, topic)
    if not found:
        raise ConfigError(f"there is no topic {shown(topic.name)} at {topic.brokers}")
    return found


def await_topics(client: Consumer, topics: Sequence[Topic], stopped: Callable[[], bool]) -> bool:
    """Waits until all topics are there, and says once for which; gives whether they are, or it was to stop.

    Raises:
        Unavailable, ConfigError: as :func:`partitions`, but for a topic that is not there.
    """
    said: list[str] = []
    while not stopped():
        missing = [shown(topic.name) for topic in topics if not _partitions(client, topic)]
        if not missing:
            return True
        if missing != said:
            logger.warning("waits for topics that are not at %s: %s", topics[0].brokers, ", ".join(missing))
            said = missing
        sleep(LOOK_AGAIN_S)
    return False


def _partitions(client: Consumer, topic: Topic) -> list[int]:
    try:
        found = client.list_topics(topic.name, timeout=ANSWER_S).topics[topic.name]
    except KafkaException as failure:
        raise Unavailable(f"no broker answers at {topic.brokers}: {failure.args[0].str()}") from None
    if found.error is not None and found.error.code() not in ABSENT:
        raise ConfigError(f"topic {shown(topic.name)} at {topic.brokers}: {found.error.str()}")
    return sorted(found.partitions)


def bounds(client: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """The first offset of a partition and the one behind its last committed record; without a leader it is waited for.

    Raises:
        Unavailable: where the broker does not say them.
    """
    until_s = monotonic() + ANSWER_S
    while True:
        try:
            first, end = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_S)
            return first, end
        except KafkaException as failure:
            error = failure.args[0]
            if (not error.retriable() and error.code() not in LEADERLESS) or monotonic() > until_s:
                raise Unavailable(f"partition {partition} of topic {topic!r}: {error.str()}") from None
            sleep(0.05)


def committed(client: Consumer, places: Sequence[TopicPartition]) -> list[TopicPartition]:
    """`places` with the offsets that the client's group has committed.

    Raises:
        Unavailable: where the group's coordinator does not say them.
    """
    until_s = monotonic() + COORDINATOR_S
    while True:
        try:
            return list(client.committed(list(places), timeout=max(until_s - monotonic(), 1.0)))
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() not in MOVING or monotonic() > until_s:
                raise Unavailable(f"committed offsets of the group: {error.name()} {error.str()}") from None
            sleep(0.05)
