"""A worker put together: clients, engine, transactions; and taken apart again."""

from __future__ import annotations

import fcntl
import hashlib
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, count, repeat
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import start_http_server

from vigil.domains.spec import Domain
from vigil.engine import Engine
from vigil.errors import ConfigError, StateError, Unavailable, quote
from vigil.features.open import check_free
from vigil.observe import metrics
from vigil.settings import MEMORY, Settings
from vigil.stream.flow import clock_ms
from vigil.stream.kafka.commits import Commits, begin_writer
from vigil.stream.kafka.config import CLIENT, READER, Displaced, consumer, logger, producer, read_properties
from vigil.stream.kafka.event_order import EventOrder
from vigil.stream.kafka.metadata import ANSWER_S, COORDINATOR_S, MOVING, await_topics, committed, partitions
from vigil.stream.kafka.offsets import OffsetKeeper
from vigil.stream.kafka.worker import Worker
from vigil.stream.scorer import Scorer
from vigil.stream.topics import Topic, Topics

LEFT_S = READER["session.timeout.ms"] / 1000 + 2  # until then, one that has ended is still counted as a member


def run_worker(domain: Domain, settings: Settings, topics: Topics, with_features: bool, stop_at_end: bool) -> int:
    """Runs a worker until SIGTERM or SIGINT, or until all is read; gives the number of decisions.

    Topics that are not there are waited for, unless it is to stop at their end.

    Raises:
        ConfigError, Unavailable, StateError, StreamError: where it cannot begin, or cannot go on.
    """
    brokers, to = topics.events.brokers, topics.decisions
    if to.brokers != brokers:
        raise ConfigError(f"a transaction stays on one cluster: from {brokers} to {to.brokers} cannot be")
    if both := {topics.events.name, topics.feedback} & {to.name, topics.alerts, topics.dead_letters}:
        raise ConfigError(f"topic {quote(min(both))} would be read and written: what comes out would come in again")
    properties = read_properties(settings.kafka_properties)
    if settings.stream_metrics_port:
        start_http_server(settings.stream_metrics_port, settings.stream_metrics_host, metrics.Flushed())
    metrics.WORKERS.set(1)
    for outcome in ("decision", "label", "dead letter"):
        metrics.STREAM_RECORDS.labels(outcome)  # there from the start, so that the first is seen to come
    decided = 0
    with _stopping() as stopped, _member(settings, topics.group) as member:
        more = (with_features, stopped, stop_at_end)
        run = partial(_work, domain, settings, topics, member, properties, *more)
        while True:
            try:
                return decided + run()
            except Displaced as displaced:
                if not displaced.by_itself:
                    raise
                # A request to join that the broker answers only after its restart displaces the one that followed it.
                logger.warning("begins anew: a request of its own, older than the broker's restart, took its place")
                decided += displaced.decided


def _work(
    domain: Domain,
    settings: Settings,
    topics: Topics,
    member: str,
    properties: Mapping[str, str],
    with_features: bool,
    stopped: Callable[[], bool],
    stop_at_end: bool,
) -> int:
    group = topics.group
    more = {"transactional.id": f"{group}-{member}", "transaction.timeout.ms": 10_000}
    made = partial(producer, topics.decisions, properties, **more)
    check_free(domain, settings)  # of its own worker: the next step would end that one
    # What a killed worker has left open is ended while model and state are read.
    with ThreadPoolExecutor(1, "vigil-begin") as aside:
        first = aside.submit(lambda: begin_writer(made, stopped))
        engine = Engine.open(domain, settings, clock_ms)
    writers = chain([first.result], repeat(lambda: begin_writer(made, stopped, patient=True)))
    _tell_state(engine)
    engine.watch_state(lambda: _tell_state(engine))
    try:
        with closing(consumer(topics.events, group, properties, **{"group.instance.id": member})) as reader:
            known = _known(reader, topics, stopped, stop_at_end)
            if not known:
                return 0
            if engine.store.marks is not None:
                committed(reader, [TopicPartition(topics.events.name, 0)])  # waits for the group's coordinator
                _check_alone(topics.events, group, member, properties)
            order = EventOrder(settings.stream_align_ms / 1000, settings.max_future_s * 1000, engine.max_past_ms)
            offsets = OffsetKeeper(reader, engine.store, known)
            scorer, begin = Scorer(engine, with_features), lambda: Commits(next(writers)(), reader)
            return _run(Worker(scorer, topics, reader, begin, offsets, order, stopped, stop_at_end))
    finally:
        metrics.READY.set(0)
        engine.close()


def _run(worker: Worker) -> int:
    metrics.READY.set(1)
    try:
        return worker.run()
    except Displaced as displaced:
        displaced.decided = worker.decided
        displaced.by_itself = worker.is_alone()
        raise


def _known(reader: Any, topics: Topics, stopped: Callable[[], bool], stop_at_end: bool) -> dict[str, list[int]]:
    """The partitions of the topics that are read, once those that are written are there, too; {}: it was stopped."""
    brokers = topics.events.brokers
    read = [topics.events, Topic(brokers, topics.feedback)]
    written = [topics.decisions, *(Topic(brokers, name) for name in (topics.alerts, topics.dead_letters))]
    if not stop_at_end and not await_topics(reader, [*read, *written], stopped):
        return {}
    known = {topic.name: partitions(reader, topic) for topic in (*read, *written)}
    return {topic.name: known[topic.name] for topic in read}


def _tell_state(engine: Engine) -> None:
    metrics.STATE_AWAY.labels(engine.domain.name).set(1 if engine.state_problem else 0)


@contextmanager
def _member(settings: Settings, group: str) -> Iterator[str]:
    """The name by which a restarted worker takes over what it was doing: that of its state.

    Where workers of one machine share their state, each has the lowest number that no other one holds.

    Raises:
        ConfigError: where that cannot be written down.
    """
    state = f"{socket.gethostname()}:{settings.state_dir.resolve()}"
    if settings.stream_member or settings.state_url == MEMORY:
        yield settings.stream_member or _short(state)
        return
    for number in count():
        path = settings.state_dir / f"stream-{_short(group)}-{number}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = path.open("w")
        except OSError as failure:
            raise ConfigError(f"{path}: {failure.strerror}; VIGIL_STREAM_MEMBER names a worker without it") from None
        with held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield f"{_short(state)}-{number}"
            return


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_alone(topic: Topic, group: str, member: str, properties: Mapping[str, str]) -> None:
    """State in memory belongs to one worker: refuses to take partitions away from another."""
    admin = AdminClient({"bootstrap.servers": topic.brokers, **CLIENT, **properties})
    until_s = time.monotonic() + LEFT_S
    while True:
        members = _members(admin, group)
        others = [f"{other.client_id} on {other.host}" for other in members if other.group_instance_id != member]
        if not others:
            return
        if time.monotonic() < until_s:
            time.sleep(0.2)
            continue
        raise StateError(
            f"group {group!r} has another worker ({', '.join(others)}): state in memory belongs to one worker; "
            "stop that one, or give both a shared VIGIL_STATE_URL"
        )


def _members(admin: AdminClient, group: str) -> Sequence[Any]:
    until_s = time.monotonic() + COORDINATOR_S
    while True:
        try:
            found = admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group].result()
            return list(found.members)
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() == KafkaError.GROUP_ID_NOT_FOUND:
                return []
            if error.code() not in MOVING or time.monotonic() > until_s:
                raise Unavailable(f"members of group {group!r}: {error.name()} {error.str()}") from None
            time.sleep(0.05)


@contextmanager
def _stopping() -> Iterator[Any]:
    """Gives what says whether SIGTERM or SIGINT has come."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
