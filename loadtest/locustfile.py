"""What Locust runs: the callers, the scenario as a shape, the gates as the exit code.

`locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:3000 [CALLER ...]`; with `--master` and `--worker`
on several machines. `python -m loadtest.load` does it on this one.
"""

from __future__ import annotations

import gc
import math
import time
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, events
from locust.runners import MasterRunner, WorkerRunner

from loadtest import report, scenario, server_side
from loadtest.ledger import Ledger
from loadtest.payments import SKEW, drawn_from
from loadtest.users.over_grpc import GrpcOne, GrpcStream
from loadtest.users.over_http import HttpMany, HttpOne, Infer

__all__ = ["GrpcOne", "GrpcStream", "HttpMany", "HttpOne", "Infer", "Scenario"]
LATE_S = 5.0  # until workers of a distributed run have told what they saw

ledger = Ledger()


@events.init.add_listener
def prepare(**_: Any) -> None:
    """What takes time is made before load falls due; the collector stays out of the way of what is kept."""
    drawn_from(SKEW)
    gc.freeze()


@events.init_command_line_parser.add_listener
def options(parser: Any, **_: Any) -> None:
    """Ours beside Locust's own."""
    parser.add_argument("--scenario", default="steady", help="One of loadtest/gates.toml", env_var="SCENARIO")
    parser.add_argument("--gates", default=str(scenario.GATES), help="Another such file", env_var="GATES")
    parser.add_argument("--grpc-host", default="127.0.0.1:3001", help="Of the gRPC callers", env_var="GRPC_HOST")
    parser.add_argument("--seed", type=int, default=0, help="Of the payments")
    parser.add_argument("--report", default="reports/load.html", help="Page with gates, times and picture")
    parser.add_argument("--metrics", default="", help="Where /metrics of the service is, if not at --host")


class Scenario(LoadTestShape):
    """As many callers as make the scenario's rate, second by second."""

    runner: Any = None
    began_s = until_s = 0.0

    def reset_time(self) -> None:
        super().reset_time()
        given = self.runner.environment.parsed_options
        self.plan = scenario.load(given.scenario, Path(given.gates))
        self.before: server_side.Histograms = {}
        self.began_s, self.until_s = time.time(), 0.0
        gevent.spawn_later(self.plan.warm_s, self._read)

    def tick(self) -> tuple[int, float] | None:
        at_s = time.time() - self.began_s
        rate = self.plan.per_s(at_s)
        if not rate or self._broken(at_s):
            self.until_s = at_s
            return None
        callers = max(1, math.ceil(rate / scenario.PER_S))
        return callers, callers  # all of them within a second

    def _read(self) -> None:
        self.before = server_side.read(metrics_url(self.runner.environment))

    def _broken(self, at_s: float) -> bool:
        plan, late_s = self.plan, LATE_S if isinstance(self.runner, MasterRunner) else 1.0
        ended = [step.per_s for _, end, step in plan.spans if end + late_s <= at_s]
        return plan.until_broken and bool(ended) and plan.held(ledger, self.began_s, at_s - late_s) != ended[-1]


def metrics_url(environment: Any) -> str:
    """Where the service's own histograms are."""
    return str(environment.parsed_options.metrics or environment.host)


@events.request.add_listener
def note(name: str, response_time: float, exception: Exception | None, **_: Any) -> None:
    """Each request, by the second it was due in."""
    ledger.add(name, time.time() - response_time / 1000, response_time, exception is not None)


@events.report_to_master.add_listener
def tell(data: dict[str, Any], **_: Any) -> None:
    """A worker's part of the ledger, to the master."""
    data["ledger"] = ledger.taken()


@events.worker_report.add_listener
def hear(data: dict[str, Any], **_: Any) -> None:
    """What a worker told."""
    ledger.give(data["ledger"])


@events.quitting.add_listener
def judge(environment: Any, **_: Any) -> None:
    """Page, table and exit code, by the process that has heard it all."""
    if isinstance(environment.runner, WorkerRunner) or not (shape := environment.shape_class):
        return
    if not shape.began_s:
        environment.process_exit_code = 1
        return
    until_s = shape.until_s or time.time() - shape.began_s
    routes = {user.kind: user.route for user in environment.user_classes}
    after = server_side.read(metrics_url(environment))
    story = report.Story(shape.plan, ledger, shape.began_s, until_s, routes, shape.before, after)
    report.write(story, Path(environment.parsed_options.report))
    print(story.text)
    environment.process_exit_code = 0 if all(gate.passed for gate in story.gates) else 1
