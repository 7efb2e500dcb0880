"""Where partitions are read from: the committed offsets, or before them where the feature state lags behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from vigil.engine import Store
from vigil.errors import StateError, StreamError
from vigil.stream.kafka.config import logger
from vigil.stream.kafka.metadata import bounds, committed

Offsets = dict[tuple[str, int], int]


class OffsetKeeper:
    """Offsets of a worker.

    State in memory says by its marks how far it has read each partition. What was committed after that
    (lost with the power, say, or with the disk) is read once more and counts, but brings nothing out.

    Args:
        reader: the consumer.
        store: the feature state; one that has marks is this worker's own and needs every partition.
        partitions: all there are, by topic.
    """

    def __init__(self, reader: Any, store: Store, partitions: Mapping[str, Sequence[int]]) -> None:
        self._reader, self.partitions = reader, partitions
        self._store = store
        self._quiet: Offsets = {}
        self._settled: Offsets = {}
        self._ends: Offsets = {}

    def starts(self, given: Sequence[TopicPartition]) -> list[TopicPartition]:
        """`given` with the offsets to read from.

        Raises:
            Unavailable: where the broker does not say what is committed.
            StreamError: where that lies behind the end of a partition.
        """
        if not given:
            return []
        found = []
        for place in committed(self._reader, given):
            self._quiet.pop((place.topic, place.partition), None)
            start = self._start(place.topic, place.partition, place.offset)
            self._settled[place.topic, place.partition] = max(start, 0)
            found.append(TopicPartition(place.topic, place.partition, start))
        return found

    def drop(self, taken: Sequence[TopicPartition]) -> None:
        """Forgets partitions that are read no more."""
        for place in taken:
            self._settled.pop((place.topic, place.partition), None)
            self._ends.pop((place.topic, place.partition), None)

    def _start(self, topic: str, partition: int, committed: int) -> int:
        if committed < 0:
            return OFFSET_BEGINNING
        first, end = bounds(self._reader, topic, partition)
        if committed > end:
            raise StreamError(
                f"{topic}/{partition} ends at {end}, the group has read up to {committed}: the topic was made anew or "
                "has lost records; set the group's offsets to where it is to go on"
            )
        if committed < first:
            logger.warning("%s/%d: offsets %d to %d are gone unread", topic, partition, committed, first - 1)
        marks = self._store.marks
        if marks is None:
            return max(committed, first)
        mark = marks.get(f"{topic}/{partition}")
        if mark is not None and mark >= committed:
            return max(committed, first)
        if mark is not None and mark < first:
            logger.warning("%s/%d: records %d to %d are gone, the state lacks them", topic, partition, mark, first - 1)
        start = max(first, mark or 0)
        if start < committed:
            logger.info("%s/%d: the state catches up on %d records", topic, partition, committed - start)
            self._quiet[topic, partition] = committed
        return start

    def mark(self, offsets: Offsets) -> None:
        """Says to the state how far the batch goes that is to count next."""
        self._store.mark({f"{topic}/{partition}": offset for (topic, partition), offset in offsets.items()})

    def settle(self, offsets: Offsets, commit: Offsets) -> Offsets:
        """Puts into `commit` what of `offsets` is to be committed; gives the offsets below which nothing comes out."""
        self._settled.update(offsets)
        if not self._quiet:
            commit.update(offsets)
            return {}
        quiet = {place: self._quiet[place] for place in offsets if place in self._quiet}
        for place, offset in offsets.items():
            if offset > quiet.get(place, -1):
                commit[place] = offset
            if offset >= quiet.get(place, 1 << 62):
                del self._quiet[place]
        return quiet

    def end(self, topic: str, partition: int, offset: int) -> None:
        """Takes note that a partition has been read up to `offset`, which is its end for now."""
        if (topic, partition) in self._settled:
            self._ends[topic, partition] = offset

    def settle_ends(self, commit: Offsets) -> None:
        """Puts the ends into `commit`, where they lie behind all records: once all that was read is settled.

        What lies between, marks of transactions and records of aborted ones, would else look like work that waits
        for ever: to KEDA, for one, which would never let the last worker go.
        """
        beyond = {place: end for place, end in self._ends.items() if end > self._settled[place]}
        self._ends.clear()
        if beyond:
            self.mark(beyond)
            self.settle(beyond, commit)

    def check_whole(self, held: Sequence[TopicPartition]) -> None:
        """Raises StateError where state in memory would see only a part of the events."""
        if self._store.marks is None:
            return
        have = {(place.topic, place.partition) for place in held}
        missing = [f"{t}/{p}" for t, some in self.partitions.items() for p in some if (t, p) not in have]
        if missing:
            raise StateError(
                f"another worker of the group reads {', '.join(missing)}: state in memory belongs to one worker; "
                "stop that one, or give both a shared VIGIL_STATE_URL"
            )
