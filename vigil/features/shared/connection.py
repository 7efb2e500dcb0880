"""The connection to a Redis or Valkey server, or to all masters of a cluster; bounded in time, back by itself."""

from __future__ import annotations

import hashlib
import logging
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import Connection, ConnectionPool, parse_url
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from vigil.errors import ConfigError, Unavailable
from vigil.settings import redact

logger = logging.getLogger(__name__)

BUCKETS = 128  # keys of one bucket lie together; a cluster spreads by bucket
PROBE_S = 0.1
CLUSTER = "+cluster"
_MOVED = (MovedError, AskError, TryAgainError)
_FAILURES = (RedisError, RedisClusterException)  # the latter is none of the former, and says that no node answers
T = TypeVar("T")
Command = tuple[int, tuple[bytes | str | int, ...] | bytes]  # bucket, words or these as the protocol has them


class Again(Exception):
    """The commands did not all run for a reason that is gone now; to run them again is for who knows how."""


@dataclass
class Pending:
    """Commands on their way.

    Attributes:
        opened: connections with the places of their answers.
        answers: how many these are.
        last: whether nothing has been sent behind them on the same connections.
    """

    opened: list[tuple[ConnectionPool, Any, list[int]]]
    answers: int
    last: bool = True


class Link:
    """Sends commands and waits for their answers, never longer than the bound, and not at all while nobody answers.

    After a failure every call is refused at once while a thread asks for the server ten times a second; once it
    answers, calls go through again.

    Args:
        url: redis://, rediss:// (TLS), redis+cluster:// or rediss+cluster://, as redis-py takes them.
        timeout_ms: the bound of one round trip, and of a connect.

    Raises:
        ConfigError: for an address that cannot be, also where a certificate it names cannot be used.
    """

    def __init__(self, url: str, timeout_ms: int) -> None:
        scheme, rest = url.split("://", 1)
        self.cluster = scheme.endswith(CLUSTER)
        self._url = scheme.removesuffix(CLUSTER) + "://" + rest
        self.shown = redact(url)
        self._timeout_s = timeout_ms / 1000
        self.problem = ""
        self.changed: Callable[[], object] = lambda: None  # called, in any thread, when `problem` has changed
        self._closed = threading.Event()
        self._prober: threading.Thread | None = None
        self._guard = threading.Lock()
        self._scripts: list[str] = []
        self.round_trips = 0
        try:
            self._options: dict[str, Any] = parse_url(self._url)
            _check(self._options)
        except (ValueError, TypeError, RedisError) as failure:
            raise ConfigError(f"VIGIL_STATE_URL={self.shown}: {failure}") from None
        self._options.update(
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._one: ConnectionPool | None = None
        self._many: RedisCluster | None = None
        self._nodes: list[tuple[str, int]] = []
        if not self.cluster:
            self._one = ConnectionPool(**self._options)

    def groups(self, buckets: npt.NDArray[np.int64], most: int = 0) -> list[tuple[int, npt.NDArray[np.int64]]]:
        """The groups of buckets that may share a command, and their places; `most` in one (0: any number)."""
        groups = [(0, np.arange(len(buckets)))] if len(buckets) else []
        if self.cluster:
            groups = [(int(bucket), np.flatnonzero(buckets == bucket)) for bucket in np.unique(buckets)]
        if not most:
            return groups
        return [(group, part[at : at + most]) for group, part in groups for at in range(0, len(part), most)]

    def call(self, commands: Sequence[Command]) -> list[Any]:
        """Runs commands in one round trip: to all servers concerned at the same time.

        Returns:
            an answer each.

        Raises:
            Unavailable: where a server is away or does not answer in time; what it did is not known then.
            Again: where slots have moved or a script had to be loaded.
        """
        return self.within_timeout(lambda: self._finish(self._begin(commands)))

    def within_timeout(self, work: Callable[[], T]) -> T:
        """Does `work` with the servers, refused and failing as `call`."""
        if self.problem:
            raise Unavailable(self.problem)
        try:
            return work()
        except _FAILURES as failure:
            raise self._to_unavailable(failure) from None

    def open(self) -> None:
        """Asks for the servers and loads the scripts; where they are away, that goes on until they answer."""
        try:
            self._load_scripts()
        except _FAILURES as failure:
            self._to_unavailable(failure)

    def script(self, source: str) -> str:
        """The name to call a Lua script by."""
        self._scripts.append(source)
        return hashlib.sha1(source.encode()).hexdigest()

    def masters(self) -> list[ConnectionPool]:
        """Connections to each server that holds keys."""
        if self._one is not None:
            return [self._one]
        if self._many is None:
            self._many = self._topology()
        return [node.redis_connection.connection_pool for node in self._many.get_primaries() if node.redis_connection]

    def close(self) -> None:
        """Ends the connections and the thread."""
        self._closed.set()
        if prober := self._prober:
            prober.join()
        if self._one:
            self._one.disconnect()
        if self._many:
            self._many.close()

    def _topology(self) -> RedisCluster:
        options = {name: value for name, value in self._options.items() if name not in ("connection_class", "db")}
        if self._url.startswith("rediss"):
            options["ssl"] = True
        named = options.pop("host", "127.0.0.1"), options.pop("port", 6379)
        # All that were known are asked: the one of the address may be the one that is gone.
        places = dict.fromkeys([named, *self._nodes])
        found = RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in places], **options)
        self._nodes = [(node.host, node.port) for node in found.get_nodes()]
        return found

    def _pool(self, bucket: int) -> ConnectionPool:
        if self._one is not None:
            return self._one
        if self._many is None:
            self._many = self._topology()
        node = self._many.nodes_manager.get_node_from_slot(SLOTS[bucket])
        pool: ConnectionPool = self._many.get_redis_connection(node).connection_pool
        return pool

    def begin(self, commands: Sequence[Command], behind: Pending | None = None) -> Pending:
        """Sends commands; `finish` waits for their answers. Raises as `call`.

        Args:
            commands: of one group where they go behind others.
            behind: commands on their way to one server, which runs these after them. They must be finished first.
        """
        return self.within_timeout(lambda: self._follow(commands, behind) if behind else self._begin(commands))

    def finish(self, pending: Pending) -> list[Any]:
        """The answers of what `begin` has sent. Raises as `call`."""
        try:
            return self.within_timeout(lambda: self._finish(pending))
        except Unavailable:
            self.abandon(pending)
            raise

    def abandon(self, pending: Pending) -> None:
        """Gives up waiting for answers."""
        for pool, connection, _ in pending.opened:
            connection.disconnect()
            if pending.last:
                pool.release(connection)
        pending.opened.clear()

    def _follow(self, commands: Sequence[Command], before: Pending) -> Pending:
        [(pool, connection, _)] = before.opened
        before.last = False
        pending = Pending([(pool, connection, list(range(len(commands))))], len(commands))
        try:
            connection.send_packed_command(_pack(connection, [words for _, words in commands]))
        except BaseException:
            self.abandon(pending)
            raise
        return pending

    def _begin(self, commands: Sequence[Command]) -> Pending:
        parts: dict[ConnectionPool, list[int]] = {}
        for i, (bucket, _) in enumerate(commands):
            parts.setdefault(self._pool(bucket), []).append(i)
        pending = Pending([], len(commands))
        try:
            for pool, indices in parts.items():
                connection = pool.get_connection()
                pending.opened.append((pool, connection, indices))
                connection.send_packed_command(_pack(connection, [commands[i][1] for i in indices]))
        except BaseException:
            self.abandon(pending)
            raise
        return pending

    def _finish(self, pending: Pending) -> list[Any]:
        answers: list[Any] = [None] * pending.answers
        try:
            for _, connection, indices in pending.opened:
                for i in indices:
                    answers[i] = _read(connection)
        except BaseException:
            self.abandon(pending)
            raise
        for pool, connection, _ in pending.opened if pending.last else ():
            pool.release(connection)
        self.round_trips += 1
        self._raise_of(answers)
        return answers

    def _raise_of(self, answers: Sequence[Any]) -> None:
        failures = [answer for answer in answers if isinstance(answer, ResponseError)]
        for failure in failures:
            if isinstance(failure, NoScriptError):
                self._load_scripts()
                raise Again
            if isinstance(failure, _MOVED) and self._many is not None:
                self._many.nodes_manager.initialize()
                raise Again
        if failures:
            raise failures[0]

    def _load_scripts(self) -> None:
        for pool in self.masters():
            for source in self._scripts:
                redis.Redis(connection_pool=pool).script_load(source)

    def _to_unavailable(self, failure: Exception) -> Unavailable:
        with self._guard:
            self.problem = problem = f"feature state {self.shown} is away: {type(failure).__name__}: {failure}"
            first = self._prober is None
            if first:
                logger.error("%s", problem)
                self._prober = threading.Thread(target=self._probe, name="vigil-state-probe", daemon=True)
                self._prober.start()
        if first:
            self.changed()
        return Unavailable(problem)

    def _probe(self) -> None:
        while not self._closed.wait(PROBE_S):
            try:
                if self.cluster:
                    found = self._topology()
                    old, self._many = self._many, found
                    if old:
                        old.close()
                self._ask()
            except (*_FAILURES, OSError) as failure:
                logger.debug("still away: %s", failure)
                continue
            with self._guard:
                self.problem, self._prober = "", None
            logger.warning("feature state %s is back", self.shown)
            self.changed()
            return

    def _ask(self) -> None:
        """Raises where a server does not answer or takes no writes: it is full, or a replica by now."""
        if self._one is not None:  # the address may mean another server by now
            self._one.disconnect(inuse_connections=False)
        for pool in self.masters():
            client = redis.Redis(connection_pool=pool)
            client.ping()
            if self.cluster and client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                raise ClusterDownError("cluster_state is not ok")
        for pool, bucket in {self._pool(bucket): bucket for bucket in range(BUCKETS)}.items():
            with suppress(*_MOVED):
                redis.Redis(connection_pool=pool).set(b"vigil:{%d}asked" % bucket, b"", px=1)


def _check(options: Mapping[str, Any]) -> None:
    """Raises ValueError, TypeError or RedisError where no connection can be made with these, whoever answers."""
    options = dict(options)
    options.pop("connection_class", Connection)(**options)
    files = {name: options[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in options}
    try:
        context = ssl.create_default_context(cafile=files.get("ssl_ca_certs"))
        if "ssl_certfile" in files or "ssl_keyfile" in files:
            certificate = files.get("ssl_certfile", "")
            context.load_cert_chain(certificate, files.get("ssl_keyfile"), options.get("ssl_password", ""))
    except OSError as failure:
        named = ", ".join(f"{name}={value}" for name, value in files.items())
        raise ValueError(f"{named} cannot be used: {failure}") from None


def _pack(connection: Any, commands: Sequence[Any]) -> Any:
    if not any(isinstance(words, bytes) for words in commands):
        return connection.pack_commands(commands)
    return [
        b"".join(
            [words if isinstance(words, bytes) else b"".join(connection.pack_command(*words)) for words in commands]
        )
    ]


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as failure:
        return failure


SLOTS = [key_slot(str(bucket).encode()) for bucket in range(BUCKETS)]
