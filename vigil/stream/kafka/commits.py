"""Transactions: the records made of a batch and the offsets it was read up to, together or not at all."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, perf_counter, time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from vigil.errors import StreamError
from vigil.observe import metrics
from vigil.stream.kafka.config import logger, refused

Headers = list[tuple[str, str | bytes | None]]
ANSWER_S = 30.0
ASK_S, ANEW_S = 0.03, 0.25  # well below the half second after which librdkafka asks again
TRY_S = 2.0
LOOK_S = 0.5
STUCK_S = 6.0

# After a restart the broker may not know what a producer has sent before, which librdkafka takes for fatal.
LOST_COUNT = (
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
)
UNASSIGNED = -1  # the partition: by the key


class Stuck(StreamError):
    """A producer that does not come back from a call or has lost count, as after a restart of the broker: make another.

    Its transaction cannot be committed any more: the other one, of the same name, fences it off.
    """


@dataclass
class Work:
    """What one transaction brings.

    Attributes:
        outputs: topic, value, key and headers of each record.
        offsets: the next offset to read, by topic and partition.
        events: how many events it answers.
        decided: how many decisions are among the outputs.
        letters: how many dead letters are among them.
        labels: how many labels it has taken.
        oldest_ms: when the oldest of them was produced, epoch milliseconds; 0: not known.
    """

    outputs: list[tuple[str, bytes | None, bytes | None, Headers | None]] = field(default_factory=list)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    events: int = 0
    decided: int = 0
    letters: int = 0
    labels: int = 0
    oldest_ms: int = 0


def begin_writer(
    make: Callable[[], Producer], stopped: Callable[[], bool] = lambda: False, patient: bool = False
) -> Producer:
    """A transactional producer that has ended the transactions of the one before it, of the same name.

    Args:
        make: makes a producer, always of the same name.
        stopped: asked while the broker has not answered: whether that is not waited for any more.
        patient: whether it is waited for until then; else for 30 s, where it does not refuse before.

    Raises:
        StreamError: where the broker does not take it, or has not answered.
    """
    writer, wait_s, until_s = make(), ASK_S, monotonic() + ANSWER_S
    while True:
        try:
            writer.init_transactions(wait_s)
            return writer
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
        writer.poll(0)  # has it say what was wrong
        late = (monotonic() > until_s or refused()) and not patient
        if not error.retriable() or stopped() or late:
            raise StreamError(f"no transactions: {error.str()}")
        if monotonic() > until_s:
            logger.warning("no transactions, asked again: %s", error.str())
            until_s = monotonic() + ANSWER_S
        if error.code() == KafkaError.CONCURRENT_TRANSACTIONS:
            # The one before is being ended, in milliseconds. librdkafka would wait 500; another producer asks at once.
            del writer
            writer, wait_s = make(), min(wait_s * 1.5, ANEW_S)


class Commits:
    """Runs transactions in a thread of its own, one behind the other, while the next batch is scored.

    A transaction that fails is aborted; then `aborted` is set and everything handed over is dropped until
    `begin_anew`. Whoever reads goes back to the committed offsets. What cannot be mended is raised by
    the next call.

    Args:
        writer: the transactional producer, of `begun`.
        reader: the consumer in whose name offsets are committed.
    """

    def __init__(self, writer: Producer, reader: Consumer) -> None:
        self._writer, self._reader = writer, reader
        self._queue: queue.Queue[tuple[Work, object] | None] = queue.Queue(1)
        self._failure: Exception | None = None
        self._began_s, self.decided = 0.0, 0
        self.aborted = self._left = False
        self._thread = threading.Thread(target=self._run, name="vigil-commits", daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Hands a batch over, from the thread that reads; waits while two are before it.

        Raises:
            StreamError: where this worker cannot go on.
        """
        # Asked for here: while this thread waits for records, another one would wait with it.
        item = (work, self._reader.consumer_group_metadata())
        while True:
            try:
                self._queue.put(item, timeout=LOOK_S)
                break
            except queue.Full:
                self.check()
        self.check()

    @property
    def idle(self) -> bool:
        """Whether all that was handed over is committed, or dropped."""
        return not self._queue.unfinished_tasks

    def drain(self) -> None:
        """Returns once all that was handed over is committed, or dropped.

        Raises:
            StreamError: as `put`.
        """
        done = self._queue.all_tasks_done
        while self._queue.unfinished_tasks:
            with done:
                done.wait_for(lambda: not self._queue.unfinished_tasks, LOOK_S)
            self.check()
        self.check()

    def begin_anew(self) -> None:
        """After an abort: nothing is left of what was handed over, and new work is taken."""
        self.drain()
        self.aborted = False

    def check(self) -> None:
        """Raises StreamError where this worker cannot go on, and Stuck where a new producer can."""
        if self._failure is not None:
            raise self._failure
        began_s = self._began_s  # read once: the other thread sets it to 0 at the end of each transaction
        if began_s and perf_counter() - began_s > STUCK_S:
            raise Stuck(f"a transaction has not ended for {STUCK_S:g} s")

    def is_first(self, some: list[TopicPartition]) -> bool:
        """Whether the broker still takes transactions of this producer: asks by one that is aborted.

        Args:
            some: any offset of the group.
        """
        try:
            self.drain()
            self._writer.begin_transaction()
            try:
                self._writer.send_offsets_to_transaction(some, self._reader.consumer_group_metadata(), ANSWER_S)
            except KafkaException as failure:
                if failure.args[0].fatal():
                    return False
            self._writer.abort_transaction(ANSWER_S)
        except (StreamError, KafkaException):
            return False
        return True

    def abandon(self) -> None:
        """Ends the thread when it comes back, however much was handed over."""
        self._left = True
        with suppress(queue.Full):  # then it does not wait for more
            self._queue.put_nowait(None)

    def close(self) -> None:
        """Ends the thread once all that was handed over is committed, or dropped."""
        self._queue.put(None)
        self._thread.join()
        self._queue.task_done()

    def _run(self) -> None:
        while not self._left and (item := self._queue.get()) is not None:
            try:
                if self._failure is None and not self.aborted:
                    self._commit(*item)
            except StreamError as failure:
                self._failure = failure
            except Exception as failure:  # reaches the main thread, which ends
                self._failure = StreamError(f"commit failed: {failure!r}")
            finally:
                self._began_s = 0.0
                self._queue.task_done()

    def _commit(self, work: Work, member: object) -> None:
        started_s = self._began_s = perf_counter()
        writer = self._writer
        try:
            writer.begin_transaction()
            produce = writer.produce
            for topic, value, key, headers in work.outputs:  # by place: a dict of names costs a third of the call
                while True:
                    try:
                        produce(topic, value, key, UNASSIGNED, None, None, 0, headers)
                        break
                    except BufferError:  # more bytes than the client holds: until the brokers have taken some
                        writer.poll(LOOK_S)
            offsets = [TopicPartition(*place, offset) for place, offset in work.offsets.items()]
            _insist(lambda: writer.send_offsets_to_transaction(offsets, member, TRY_S))
            _insist(writer.commit_transaction)
        except KafkaException as failure:
            self._abort(failure)
            return
        metrics.STREAM_COMMIT_SECONDS.observe(perf_counter() - started_s)
        metrics.STREAM_BATCH.observe(work.events)
        for what, count in (("decision", work.decided), ("dead letter", work.letters), ("label", work.labels)):
            metrics.STREAM_RECORDS.labels(what).inc(count)
        self.decided += work.decided
        if work.oldest_ms > 0:
            metrics.STREAM_SECONDS.observe(max(time() - work.oldest_ms / 1000, 0.0))

    def _abort(self, failure: KafkaException) -> None:
        error: KafkaError = failure.args[0]
        if error.fatal():
            raise _ended(error) from None
        logger.warning("transaction aborted, its events are read again: %s", error.str())
        metrics.STREAM_ABORTS.inc()
        self.aborted = True
        try:
            _insist(self._writer.abort_transaction)
        except KafkaException as worse:
            raise _ended(worse.args[0]) from None


def _insist(call: object) -> None:
    """Calls until it is done, where the client says that only time is wanting."""
    assert callable(call)
    while True:
        try:
            call()
            return
        except KafkaException as failure:
            error = failure.args[0]
            if not error.retriable() or error.fatal() or error.txn_requires_abort():
                raise
            logger.info("transaction: %s, tried again", error.str())


def _ended(error: KafkaError) -> StreamError:
    """What is raised for an error that ends a producer."""
    if error.code() in LOST_COUNT:
        return Stuck(f"the broker has lost count of what was sent: {error.str()}")
    if error.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
        return StreamError(f"another worker has taken over the work of this one, which ends ({error.str()})")
    return StreamError(f"the broker ended the producer of this worker, which ends: start it again ({error.str()})")
