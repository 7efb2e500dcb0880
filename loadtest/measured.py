"""Servers one after another, in rounds: started, checked, warmed, measured, stopped."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil

from loadtest.calls import Call, Ports, Row
from loadtest.servers import Server
from loadtest.usage import cpu_s, memory_mb
from loadtest.wrk import Load
from testbed.served import ROOT, NotServed, Process, free_port
from vigil.errors import VigilError

TOLERANCE = 1e-4
NO_ANSWER = (OSError, ValueError, LookupError, grpc.RpcError)
FAILURES = (VigilError, OSError, psutil.Error)
WARM_S = 1


@dataclass(frozen=True)
class Job:
    """What every server is given.

    Args:
        row: features of the one row a request.
        risk: the model's own answer to it.
        model: path of the ONNX file.
        seconds: of load a round and way in.
        connections: requests under way: over HTTP one a connection, over gRPC eight.
        folder: for logs and the load generators' files.
    """

    row: Row
    risk: float
    model: Path
    seconds: int
    connections: int
    folder: Path


@dataclass(frozen=True)
class Run:
    """One round of one way in: its load, CPU microseconds of the server a request, and its memory after it in MB."""

    load: Load
    cpu_us: float
    memory_mb: float


@dataclass(frozen=True)
class Line:
    """One server and way in, the medians over its rounds; errors are summed."""

    name: str
    protocol: str
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float
    memory_mb: float


@dataclass
class Results:
    """Runs by server and way in, and why servers or single ways in are missing."""

    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def take(self, peer: Peer, server: Server, call: Call) -> None:
        """One round of one way in, unless an earlier one failed."""
        way = f"{server.name}, {call.protocol}"
        if way in self.missing:
            return
        try:
            self.runs.setdefault((server.name, call.protocol), []).append(peer.measured(call))
        except FAILURES as failure:
            self.missing[way] = reason(failure)

    def lines(self) -> list[Line]:
        """HTTP first, then gRPC, the fastest first."""
        found = [line(name, protocol, runs) for (name, protocol), runs in self.runs.items() if runs]
        return sorted(found, key=lambda each: (each.protocol != "HTTP", -each.requests_per_s))


def line(name: str, protocol: str, runs: list[Run]) -> Line:
    """The medians of some rounds."""

    def median(value: Callable[[Run], float]) -> float:
        return statistics.median(value(run) for run in runs)

    return Line(
        name,
        protocol,
        median(lambda run: run.load.requests_per_s),
        median(lambda run: run.load.p50_ms),
        median(lambda run: run.load.p99_ms),
        sum(run.load.errors for run in runs),
        median(lambda run: run.cpu_us),
        median(lambda run: run.memory_mb),
    )


class Peer(Process):
    """A server of the table, ready once each of its ways in gives the model's own answer.

    Raises:
        NotServed: where it does not come up, or answers with another risk.
    """

    def __init__(self, server: Server, python: Path, job: Job) -> None:
        self.ports = Ports(free_port(), free_port(), free_port())
        self._server, self._job = server, job
        own = {
            "BENCH_MODEL": str(job.model),
            "PYTHONPATH": str(ROOT),
            "VIGIL_STATE_DIR": str(job.folder / "state"),
            "BENTOML_DO_NOT_TRACK": "True",
            "TMPDIR": str(job.folder),
            "PYTRITON_HOME": str(job.folder / "pytriton"),
        }
        command = [str(python), *(part.format(**vars(self.ports)) for part in server.command)]
        asked = {key: value.format(**vars(self.ports)) for key, value in server.environment.items()}
        super().__init__(command, job.folder / f"{server.key}.log", own | asked)

    def ready(self) -> bool:
        return all(self._right(call) for call in self._server.calls)

    def _right(self, call: Call) -> bool:
        try:
            got = call.ask(self.ports, self._job.row)
        except NO_ANSWER:
            return False
        if not abs(got - self._job.risk) <= TOLERANCE:
            raise NotServed(
                f"{self._server.name} over {call.protocol} answers {got}, the model itself {self._job.risk}"
            )
        return True

    def measured(self, call: Call) -> Run:
        """One round of one way in, after a second that does not count. What it answers then is checked again.

        Raises:
            NotServed: where it is not right any more.
        """
        call.load(self.ports, self._job.row, self._job.folder, WARM_S, self._job.connections)
        before_s = cpu_s(self.process.pid)
        load = call.load(self.ports, self._job.row, self._job.folder, self._job.seconds, self._job.connections)
        used_s = cpu_s(self.process.pid) - before_s
        if not self._right(call):
            raise NotServed(f"{self._server.name} over {call.protocol} does not answer any more after the load")
        requests = max(load.requests_per_s * self._job.seconds, 1.0)
        return Run(load, used_s / requests * 1e6, memory_mb(self.process.pid))


def measure(
    servers: list[Server], pythons: dict[bool, Path], job: Job, rounds: int, tell: Callable[[str], None]
) -> Results:
    """All servers, `rounds` times over. One that fails is left out from there on, with a line that says why.

    Args:
        pythons: Python for peers (True) and for Vigil (False).
        tell: gets what is being done.
    """
    results = Results()
    for turn in range(rounds):
        for server in servers:
            if server.name in results.missing:
                continue
            tell(f"round {turn + 1} of {rounds}: {server.name}")
            try:
                with Peer(server, pythons[server.peer], job) as peer:
                    for call in server.calls:
                        results.take(peer, server, call)
            except FAILURES as failure:
                results.missing[server.name] = reason(failure)
    return results


def reason(failure: Exception) -> str:
    """A failure in one line: its first, and the last that is not empty."""
    said = [text.strip() for text in str(failure).splitlines() if text.strip()] or [type(failure).__name__]
    return said[0] if len(said) == 1 else f"{said[0]} {said[-1]}"
