"""The worker: events of a topic in, decisions, alerts and dead letters out, in transactions with their offsets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from vigil.errors import InvalidInput, StreamError, Unavailable
from vigil.observe import metrics
from vigil.stream.kafka.commits import Commits, Headers, Stuck, Work
from vigil.stream.kafka.config import check_reading, end_or_note, logger
from vigil.stream.kafka.dead_letters import MOST_BYTES, letter, sizes
from vigil.stream.kafka.event_order import EventOrder
from vigil.stream.kafka.offsets import OffsetKeeper
from vigil.stream.scorer import Scorer
from vigil.stream.topics import Topics

BATCH = 20_000  # of a backlog, in a transaction: half as many cost the broker a fifth more CPU an event
BATCH_BYTES = 32 << 20  # and of large ones: what goes out of them must be taken within STUCK_S
READ_S = 0.1
READ_MORE_S = 0.001
LAG_EVERY_S = 1.0
TRACE = "traceparent"


class Worker:
    """Scores events until it is told to stop.

    Args:
        scorer: of the domain's engine.
        topics: what is read and written.
        reader: a consumer that has not subscribed yet.
        begin: makes a new producer and its transactions, which end those of the one before.
        offsets: where each partition is to be read from.
        order: merges the partitions by event time.
        stopped: asked between batches.
        stop_at_end: also stop once every partition has been read to its end.
    """

    def __init__(
        self,
        scorer: Scorer,
        topics: Topics,
        reader: Any,
        begin: Callable[[], Commits],
        offsets: OffsetKeeper,
        order: EventOrder,
        stopped: Callable[[], bool],
        stop_at_end: bool,
    ) -> None:
        self._scorer, self._engine, self._topics = scorer, scorer.engine, topics
        self._reader, self._begin, self._keeper, self._order = reader, begin, offsets, order
        self._commits = begin()
        self._stopped, self._stop_at_end = stopped, stop_at_end
        self._labels_ended: set[int] = set()
        self._lag_s, self._moves = 0.0, 0
        self._version = self._engine.domain.policy.version
        self._decided = 0

    def run(self) -> int:
        """Works until stopped; gives the number of decisions.

        Raises:
            StreamError: where this worker cannot go on.
        """
        self._reader.subscribe(
            [self._topics.events.name, self._topics.feedback],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        while not self._stopped():
            try:
                self._turn()
                if self._stop_at_end and self._at_end():
                    self._commits.drain()
                    if not self._commits.aborted:
                        break
            except Stuck as stuck:
                logger.warning("%s: with another producer, its events are read again", stuck)
                self._decided += self._commits.decided
                self._commits.abandon()
                self._commits = self._begin()
                self._commits.aborted = True
        self._commits.drain()
        self._commits.close()
        return self.decided

    @property
    def decided(self) -> int:
        """Decisions committed so far."""
        return self._decided + self._commits.decided

    def is_alone(self) -> bool:
        """Whether no other worker of the same name has begun, as the broker says."""
        return self._commits.is_first([TopicPartition(self._topics.events.name, 0, 0)])

    def _turn(self) -> None:
        """Reads what is there, scores what is its turn, hands it over to be committed."""
        self._commits.check()
        if self._commits.aborted:
            self._go_back()
        labels, events, others = self._read()
        now_s, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        if events:
            self._order.add(events, self._decode(events), now_ms)
        for record in others:
            self._heed(record)
        told = self._look_at_ends(now_s)
        work = Work()
        try:
            if labels:
                self._learn(labels, work)
            # While a transaction is under way, the next one grows: small ones would wait in line behind it.
            if self._order.waiting >= BATCH or self._commits.idle:
                taken, events = self._order.take(BATCH, now_s)
                for part in _parts(taken):
                    if work.events:
                        self._hand_over(work)
                        work = Work()
                    self._score(taken[part], events[part], work, now_ms)
            if told and not self._order.waiting:
                self._keeper.settle_ends(work.offsets)
        except Unavailable as away:
            self._wait_for_state(away)
            return
        self._hand_over(work)

    def _hand_over(self, work: Work) -> None:
        if work.offsets or work.outputs:
            self._commits.put(work)

    def _read(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Labels, events and what is neither, as far as they are there; waits a little where there are none."""
        reader = self._reader
        # Waiting is for `poll`: what `consume` finds besides records, such as the end of this worker, can get lost.
        waiting = self._order.waiting
        first = reader.poll(READ_S if not waiting else READ_MORE_S if waiting < BATCH else 0)
        moves, records = self._moves, [] if first is None else reader.consume(BATCH - 1, 0)
        # Where partitions have moved meanwhile, it is of those before, and would come ahead of what is read again.
        if first is not None and moves == self._moves:
            records.insert(0, first)
        others = [record for record in records if record.error() is not None]
        if others:
            records = [record for record in records if record.error() is None]
        feedback = self._topics.feedback
        labels = [record for record in records if record.topic() == feedback]
        if labels:
            self._labels_ended -= {record.partition() for record in labels}
            records = [record for record in records if record.topic() != feedback]
        return labels, records, others

    def _heed(self, record: Any) -> None:
        error = record.error()
        if error.code() == KafkaError._PARTITION_EOF:
            self._keeper.end(record.topic(), record.partition(), record.offset())
            if record.topic() == self._topics.feedback:
                self._labels_ended.add(record.partition())
            elif (backlog := self._order.partitions.get(record.partition())) and record.offset() >= backlog.next_offset:
                # Not told of before the last record. Behind that may lie the marks of transactions, or an aborted one.
                backlog.ended, backlog.next_offset = True, record.offset()
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise StreamError(f"this worker cannot read on and ends: {error.str()}")
        else:
            end_or_note(error)

    def _look_at_ends(self, now_s: float) -> bool:
        """Sees which partitions have been read to their end, and which are too far ahead to be read on.

        Gives whether it told how far behind they are, which it does once a second.
        """
        topic, tell = self._topics.events.name, now_s - self._lag_s >= LAG_EVERY_S
        for partition, backlog in self._order.partitions.items():
            if not backlog.ended or tell:
                place = TopicPartition(topic, partition)
                _, end = self._reader.get_watermark_offsets(place, cached=True)
                if 0 <= end <= backlog.next_offset:
                    backlog.ended = True
                if tell and end >= 0 and backlog.next_offset >= 0:
                    behind = max(end - backlog.next_offset, 0) + len(backlog.records)
                    metrics.STREAM_LAG.labels(topic, str(partition)).set(behind)
            if not backlog.paused and backlog.full:
                backlog.paused = True
                self._reader.pause([TopicPartition(topic, partition)])
            elif backlog.paused and backlog.has_room:
                backlog.paused = False
                self._reader.resume([TopicPartition(topic, partition)])
        if tell:
            check_reading(self._reader)
            self._lag_s = now_s
        return tell

    def _at_end(self) -> bool:
        known = self._keeper.partitions
        return (
            set(self._order.partitions) == set(known.get(self._topics.events.name, ()))
            and self._order.done
            and self._labels_ended == set(known.get(self._topics.feedback, ()))
        )

    def _decode(self, records: Sequence[Any]) -> list[Any]:
        events, came = self._scorer.decode([record.value() for record in records]), sizes(records)
        if max(came) > MOST_BYTES:
            for place, size in enumerate(came):
                if size > MOST_BYTES:
                    events[place] = InvalidInput(f"event: came with {size:,} bytes, wanted {MOST_BYTES:,} at most")
        return events

    def _learn(self, records: Sequence[Any], work: Work) -> None:
        labels, refused = self._engine.schema.decode_feedback_each([record.value() for record in records])
        offsets = _offsets(records)
        self._keeper.mark(offsets)
        if labels:
            self._engine.feedback(labels)
            work.labels += len(labels)
        quiet = self._keeper.settle(offsets, work.offsets)
        self._bury(records, refused, quiet, work)

    def _score(self, records: Sequence[Any], events: Sequence[Any], work: Work, now_ms: int) -> None:
        offsets = _offsets(records)
        self._keeper.mark(offsets)
        outcome = self._scorer.score([record.value() for record in records], events, now_ms)
        quiet = self._keeper.settle(offsets, work.offsets)
        decisions, alerts = self._topics.decisions.name, self._topics.alerts
        outputs, first = work.outputs, len(work.outputs)
        version: Headers = [("vigil-decision", self._version)]
        for record, value in zip([records[place] for place in outcome.places], outcome.records, strict=True):
            came = record.headers()
            headers = version if came is None else [*version, *(item for item in came if item[0] == TRACE)]
            outputs.append((decisions, value, record.key(), headers))
        for i in outcome.blocked:
            outputs.append((alerts, *outputs[first + i][1:]))
        if quiet:
            places = [*outcome.places, *(outcome.places[i] for i in outcome.blocked)]
            outputs[first:] = [
                output
                for place, output in zip(places, outputs[first:], strict=True)
                if records[place].offset() >= quiet.get((records[place].topic(), records[place].partition()), 0)
            ]
        self._bury(records, outcome.refused, quiet, work)
        work.events = len(records)
        if not quiet:
            work.oldest_ms = records[0].timestamp()[1]
        work.decided = sum(output[0] == decisions for output in outputs[first:]) if quiet else len(outcome.records)

    def _bury(
        self, records: Sequence[Any], refused: dict[int, InvalidInput], quiet: dict[tuple[str, int], int], work: Work
    ) -> None:
        for place, why in refused.items():
            record = records[place]
            if record.offset() >= quiet.get((record.topic(), record.partition()), 0):
                work.outputs.append((self._topics.dead_letters, *letter(record, why)))
                work.letters += 1

    def _wait_for_state(self, away: Unavailable) -> None:
        """Until shared feature state answers; then all that is not committed is read again.

        Meanwhile the reader stays in its group. What a partition that comes meanwhile gives is read again, too.
        """
        logger.warning("events wait: %s", away)
        self._commits.drain()
        self._reader.pause(self._reader.assignment())
        while self._engine.state_problem and not self._stopped():
            self._commits.check()
            if (record := self._reader.poll(READ_S)) is not None and record.error() is not None:
                self._heed(record)
        self._reader.resume(self._reader.assignment())
        self._go_back()

    def _go_back(self) -> None:
        """After an aborted transaction: everything from the committed offsets on is read again.

        What of it has counted in the feature state is known there by its id: it gets the same features again.
        """
        self._commits.begin_anew()
        held = self._reader.assignment()
        self._forget(held)
        starts = self._keeper.starts(held)
        self._open(starts)
        for place in starts:
            self._reader.seek(place)

    def _open(self, starts: Sequence[TopicPartition]) -> None:
        events = self._topics.events.name
        self._order.open([place.partition for place in starts if place.topic == events], time.monotonic())
        for place in starts:
            if place.topic == events and place.offset >= 0:
                self._order.partitions[place.partition].next_offset = place.offset

    def _forget(self, held: Sequence[TopicPartition]) -> None:
        events = self._topics.events.name
        paused = [at for at in held if at.topic == events and self._is_paused(at.partition)]
        if paused:
            self._reader.resume(paused)
        self._order.drop([place.partition for place in held if place.topic == events])
        self._keeper.drop(held)
        self._labels_ended -= {place.partition for place in held if place.topic != events}

    def _is_paused(self, partition: int) -> bool:
        backlog = self._order.partitions.get(partition)
        return backlog is not None and backlog.paused

    def _on_assign(self, reader: Any, given: list[TopicPartition]) -> None:
        starts = self._keeper.starts(given)
        self._keeper.check_whole(given)
        reader.assign(starts)
        self._open(starts)
        logger.info("reads on: %s", ", ".join(f"{at.topic}/{at.partition}" for at in starts) or "nothing new")

    def _on_revoke(self, reader: Any, taken: list[TopicPartition]) -> None:
        try:
            self._commits.drain()
        except (StreamError, KafkaException) as failure:  # said again by the next turn
            logger.warning("before partitions moved: %s", failure)
        self._forget(taken)
        self._moves += 1
        for place in taken:
            metrics.STREAM_LAG.remove(place.topic, str(place.partition))
        reader.unassign()

    def _on_lost(self, reader: Any, taken: list[TopicPartition]) -> None:
        logger.warning("lost %d partitions: the group went on without this worker", len(taken))
        self._on_revoke(reader, taken)


def _offsets(records: Sequence[Any]) -> dict[tuple[str, int], int]:
    """The next offset to read after `records`, by topic and partition."""
    last = {record.partition(): record for record in records}
    return {(record.topic(), partition): record.offset() + 1 for partition, record in last.items()}


def _parts(records: Sequence[Any]) -> Iterator[slice]:
    """Which of `records` go into a transaction each: all into one, but for large ones."""
    start = size = 0
    if sum(map(len, records)) > BATCH_BYTES:
        for place, record in enumerate(records):
            if size and size + len(record) > BATCH_BYTES:
                yield slice(start, place)
                start, size = place, 0
            size += len(record)
    if records:
        yield slice(start, len(records))
