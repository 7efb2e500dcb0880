"""Settings and errors of Kafka's clients."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from vigil.errors import ConfigError, StreamError
from vigil.stream.topics import Topic

logger = logging.getLogger("vigil.stream")

NOTE_EVERY_S = 10.0

# A password or a certificate that a broker does not take, or whose own is not taken: it will not be the next time.
REFUSALS = (KafkaError._AUTHENTICATION, KafkaError._SSL)

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


def read_properties(path: Path | None) -> dict[str, str]:
    """Settings of librdkafka in a file of `key=value` lines, as `security.protocol=SASL_SSL`; `#` begins a comment.
    Authorities are those of `SSL_CERT_FILE` where the file names none.

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
    # librdkafka looks for authorities where systems keep them, before it looks where OpenSSL is told to.
    if (authorities := os.environ.get("SSL_CERT_FILE")) and not any(key.startswith("ssl.ca.") for key in found):
        found["ssl.ca.location"] = authorities
    return found


def consumer(topic: Topic, group: str, properties: Mapping[str, str], **more: Any) -> Consumer:
    """A consumer of committed records. Once it cannot go on, its next call raises Displaced.

    Raises:
        ConfigError: for a property that librdkafka does not take.
    """
    values = CLIENT | READER | {"group.id": group, "error_cb": end_or_note} | dict(properties) | more
    made: Consumer = _make(Consumer, topic, values)
    return made


def producer(topic: Topic, properties: Mapping[str, str], **more: Any) -> Producer:
    """An idempotent producer.

    Raises:
        ConfigError: for a property that librdkafka does not take.
    """
    made: Producer = _make(Producer, topic, CLIENT | WRITER | dict(properties) | more)
    return made


def _make(kind: Any, topic: Topic, values: Mapping[str, Any]) -> Any:
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


def refused() -> bool:
    """Whether a broker and a client of this process have just not taken each other."""
    return any(monotonic() - _noted.get(code, -math.inf) < 2 * NOTE_EVERY_S for code in REFUSALS)


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
