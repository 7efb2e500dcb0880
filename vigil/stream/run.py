"""What `vigil stream` runs: an engine of its own between a source and a sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vigil import settings
from vigil.domains.schema import Schema
from vigil.domains.spec import Domain
from vigil.engine import Engine
from vigil.errors import ConfigError
from vigil.features.history import parse_columns
from vigil.features.memory.store import MemoryStore
from vigil.stream import files
from vigil.stream.endpoints import Guarantee, Sink, Source, check_apart
from vigil.stream.flow import clock_ms, flow, to_stderr
from vigil.stream.scorer import Scorer
from vigil.stream.topics import Topic, Topics


def kafka(domain: Domain, topics: Topics, with_features: bool, stop_at_end: bool) -> str:
    """Scores a topic into a topic, each event exactly once, until it is stopped.

    Returns:
        what was done, in a line.

    Raises:
        ConfigError: where the package is missing, or topics contradict each other.
        Unavailable, StateError, StreamError: where a worker cannot begin, or cannot go on.
    """
    try:
        from vigil.stream.kafka.run_worker import run_worker
    except ModuleNotFoundError as missing:
        raise ConfigError(f"{missing.name} is not installed: pip install 'vigil[stream]'") from None
    decided = run_worker(domain, settings.load(), topics, with_features, stop_at_end)
    return f"{decided:,} decisions; delivered {Guarantee.EXACTLY_ONCE}"


def replay_dead_letters(letters: Topic, group: str) -> str:
    """Puts the dead letters back where they came from; says how many.

    Raises:
        ConfigError, Unavailable, StreamError: where they cannot be read or put back.
    """
    from vigil.stream.kafka.config import read_properties
    from vigil.stream.kafka.dead_letters import replay

    count = replay(letters, group, read_properties(settings.load().kafka_properties), lambda: False)
    return f"{count:,} dead letters put back where they came from"


def rebuild(domain: Domain, source: str, feedback: str, progress: Callable[[int], None]) -> MemoryStore:
    """The feature state after all that a topic of events, and one of labels, hold.

    Raises:
        ConfigError, Unavailable, StreamError: where they cannot be read.
    """
    try:
        from vigil.stream.kafka import rebuild
        from vigil.stream.kafka.config import read_properties
    except ModuleNotFoundError as missing:
        raise ConfigError(f"{missing.name} is not installed: pip install 'vigil[stream]'") from None
    found, events = settings.load(), Topic.parse(source)
    labels, latest_ms = Topic(events.brokers, feedback), clock_ms() + found.max_future_s * 1000
    return rebuild.rebuild(domain, events, labels, read_properties(found.kafka_properties), latest_ms, progress)


def embedded(
    domain: Domain, source: str, sink: str, columns: Sequence[str], with_features: bool, stop_at_end: bool
) -> str:
    """Scores from or to files and pipes; needs no server but where the other end is a topic.

    Args:
        source, sink: addresses, one at least of a file or pipe.
        columns: `FIELD=COLUMN` of a Parquet source.
        with_features: whether the records shall hold the features.
        stop_at_end: whether the end of a topic ends it.

    Returns:
        what was done, in a line.

    Raises:
        ConfigError: for an address that is none, or where a package is missing.
        DataError: where the source cannot be read or the sink not be written.
        Unavailable, StreamError: where a topic cannot be.
    """
    if _is_topic(source) and sink.endswith(".parquet") and not stop_at_end:
        raise ConfigError("a Parquet file is written at the end, and a topic has none: add --stop-at-end")
    check_apart(source, sink)
    try:
        events = (
            _topic_events(source, domain, stop_at_end)
            if _is_topic(source)
            else files.source(source, domain, parse_columns(columns))
        )
        out = _topic_out(sink, domain) if _is_topic(sink) else files.sink(sink)
    except ModuleNotFoundError as missing:
        raise ConfigError(f"{missing.name} is not installed: pip install 'vigil[stream]'") from None
    engine = Engine.open(domain, settings.load(), clock_ms)
    try:
        total = flow(events, Scorer(engine, with_features), out, to_stderr, clock_ms)
    finally:
        engine.close()
    delivered = min(events.guarantee, out.guarantee)
    return f"{total.decided:,} decisions, {total.refused:,} refused; delivered {delivered}"


def _is_topic(address: str) -> bool:
    return address.startswith("kafka://")


def _topic_events(address: str, domain: Domain, stop_at_end: bool) -> Source:
    from vigil.stream.kafka.config import read_properties
    from vigil.stream.kafka.event_order import EventOrder
    from vigil.stream.kafka.topic_endpoints import TopicEvents

    chosen = settings.load()
    order = EventOrder(chosen.stream_align_ms / 1000, chosen.max_future_s * 1000)
    properties = read_properties(chosen.kafka_properties)
    return TopicEvents(Topic.parse(address), Schema(domain), properties, order, stop_at_end)


def _topic_out(address: str, domain: Domain) -> Sink:
    from vigil.stream.kafka.config import read_properties
    from vigil.stream.kafka.topic_endpoints import TopicOut

    return TopicOut(Topic.parse(address), read_properties(settings.load().kafka_properties), domain.entities[0].name)
