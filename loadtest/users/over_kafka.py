"""Callers that produce payments to Kafka and are answered by a committed decision of `vigil stream`.

`locust -f loadtest/locustfile.py,loadtest/users/over_kafka.py --kafka 127.0.0.1:9092 KafkaOne`.
"""

from __future__ import annotations

import json
import os
from typing import Any

import gevent
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from gevent.event import AsyncResult
from locust import events

from loadtest.arrivals import Caller

EVENTS, DECISIONS = "vigil.events.payments", "vigil.decisions"
LIMIT_S, TURN_S = 30.0, 0.005  # a worker that comes up takes a while


@events.init_command_line_parser.add_listener
def options(parser: Any, **_: Any) -> None:
    """Where the brokers are."""
    parser.add_argument("--kafka", default="127.0.0.1:9092", help="Brokers of the Kafka callers", env_var="KAFKA")


class Line:
    """One producer and one `read_committed` reader, which all callers of this process share.

    librdkafka's threads know nothing of greenlets: it is asked in turns and never waited for.
    """

    def __init__(self, brokers: str) -> None:
        self._producer = Producer({"bootstrap.servers": brokers, "linger.ms": 1, "enable.idempotence": True})
        self._reader = Consumer(
            {"bootstrap.servers": brokers, "group.id": f"load-{os.getpid()}", "isolation.level": "read_committed"}
        )
        self._waiting: dict[str, AsyncResult[int]] = {}
        partitions = self._reader.list_topics(DECISIONS, timeout=LIMIT_S).topics[DECISIONS].partitions
        ends = [TopicPartition(DECISIONS, at) for at in partitions]
        for each in ends:
            each.offset = self._reader.get_watermark_offsets(each, timeout=LIMIT_S)[1]
        self._reader.assign(ends)
        gevent.spawn(self._turns)

    def decided(self, event: dict[str, Any]) -> int:
        """Produces a payment; bytes of its decision, once that is committed.

        Raises:
            gevent.Timeout: where there is none in half a minute.
            KafkaException: where the broker refused it.
        """
        answer: AsyncResult[int] = AsyncResult()
        self._waiting[event["event_id"]] = answer
        try:
            self._producer.produce(
                EVENTS,
                json.dumps(event),
                str(event["customer"]),
                on_delivery=lambda failure, _: answer.set_exception(KafkaException(failure)) if failure else None,
            )
            return int(answer.get(timeout=LIMIT_S))
        finally:
            del self._waiting[event["event_id"]]

    def _turns(self) -> None:
        while True:
            self._producer.poll(0)
            for message in self._reader.consume(500, 0):
                decision = json.loads(message.value() or b"{}")
                if answer := self._waiting.get(decision.get("event_id", "")):
                    answer.set(len(message.value() or b""))
            gevent.sleep(TURN_S)


class KafkaOne(Caller):
    """A payment at a time; the time runs until its decision is committed, five milliseconds more at most."""

    kind, route = "Kafka, a payment", ("kafka", "")
    line: Line | None = None

    def open(self) -> None:
        if KafkaOne.line is None:
            KafkaOne.line = Line(self.environment.parsed_options.kafka)

    def ask(self) -> int:
        assert self.line
        return self.line.decided(next(self.payments))
