"""What brokers say of topics, partitions and groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, sleep

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from vigil.errors import ConfigError, Unavailable, quote
from vigil.stream.kafka.config import logger, refused
from vigil.stream.topics import Topic

ANSWER_S = 15.0
COORDINATOR_S = 60.0  # a fresh cluster makes it when it is first asked for
ASK_S = 3.0
LOOK_AGAIN_S = 0.5

# The group's coordinator is being made, or moves.
MOVING = (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR)
# A topic is not there, or just being made.
ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE)
# A partition's leader has just gone.
LEADERLESS = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._TRANSPORT)


def partitions(client: Consumer, topic: Topic) -> list[int]:
    """The partitions of a topic.

    Raises:
        Unavailable: where no broker answers.
        ConfigError: where there is no such topic, or it may not be read.
    """
    found = _partitions(client, topic)
    if not found:
        raise ConfigError(f"there is no topic {quote(topic.name)} at {topic.brokers}")
    return found


def await_topics(client: Consumer, topics: Sequence[Topic], stopped: Callable[[], bool]) -> bool:
    """Waits until all topics are there, and says once for which; gives whether they are, or it was to stop.

    Raises:
        Unavailable, ConfigError: as `partitions`, but for a topic that is not there.
    """
    said: list[str] = []
    while not stopped():
        missing = [quote(topic.name) for topic in topics if not _partitions(client, topic)]
        if not missing:
            return True
        if missing != said:
            logger.warning("waits for topics that are not at %s: %s", topics[0].brokers, ", ".join(missing))
            said = missing
        sleep(LOOK_AGAIN_S)
    return False


def _partitions(client: Consumer, topic: Topic) -> list[int]:
    until_s = monotonic() + ANSWER_S
    while True:
        try:
            found = client.list_topics(topic.name, timeout=ASK_S).topics[topic.name]
            break
        except KafkaException as failure:
            client.poll(0)  # has the client say what was wrong
            if refused() or monotonic() > until_s:
                raise Unavailable(f"no broker answers at {topic.brokers}: {failure.args[0].str()}") from None
    if found.error is not None and found.error.code() not in ABSENT:
        raise ConfigError(f"topic {quote(topic.name)} at {topic.brokers}: {found.error.str()}")
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
