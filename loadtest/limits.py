"""`python -m loadtest.limits`: what one Vigil holds by itself: rates, tail, start, memory, a kill, overload."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console

import model_store
from loadtest import page
from loadtest.bench import example_row, own_risk
from loadtest.calls import MODEL, Grpc, Http, Ports, message, oip
from loadtest.h2load import h2load
from loadtest.measured import TOLERANCE
from loadtest.outcome import Outcome
from loadtest.overload import overload
from loadtest.paced import paced
from loadtest.usage import memory_mb
from loadtest.wires import Http1
from loadtest.wrk import JSON, Load, wrk
from testbed import slow_model
from testbed.served import LOCALHOST, ROOT, Served
from vigil import domains
from vigil.errors import InvalidInput, VigilError

MARKER = "loadtest.limits"
INFER, SCORE = f"/v2/models/{MODEL}/infer", f"/v1/{MODEL}/score"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
BATCH_ROWS, STREAM_MESSAGES = 1000, 100
SHARE_OF_PEAK, KILLED_S = 0.7, 10
SLOW_ROWS, SLOW_S = 16, 5e-3
# A payment with an id of its own, of one of 5,000 customers at one of 10,000 terminals.
EVENTS = """
local n, run = 0, "{run}"
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, string.format(
    '{"event_id":"%s-%d","ts":"{ts}","customer":%d,"terminal":%d,"amount":%d.5}',
    run, n, math.random(5000), math.random(10000), math.random(200)))
end
"""
# A whole number of milliseconds, right in the mean.
PAUSES = "delay = function() return math.floor({pause_ms} * 2 * math.random() + math.random()) end"
TRIES = 6
Lines = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Trial:
    """What each measurement gets: seconds of load a run, and a folder of its own."""

    seconds: int
    folder: Path

    def vigil(self, **settings: str) -> Served:
        """A service with fresh state and these `VIGIL_*` settings."""
        state = tempfile.mkdtemp(dir=self.folder)
        own = {"VIGIL_STATE_DIR": state, "VIGIL_DOMAINS": MODEL}
        return Served(".", self.folder / "vigil.log", own | settings)


def worker_mb(service: Served) -> float:
    """Memory of the worker, without the process that watches it."""
    return max(memory_mb(child.pid) for child in psutil.Process(service.process.pid).children(recursive=True))


def shown(load: Load) -> str:
    """A load's latencies and errors."""
    return f"p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms, {load.errors:,} errors"


def start(trial: Trial) -> Lines:
    """Import time, start to ready, memory of a fresh worker."""
    script = "import time; s = time.perf_counter(); import vigil.serving.process; print(time.perf_counter() - s)"
    command = [sys.executable, "-c", script]
    imports = [float(subprocess.check_output(command, cwd=ROOT, text=True)) for _ in range(5)]
    yield "import of `vigil.serving.process`, median of 5", f"{statistics.median(imports):.2f} s"
    took_s, fresh_mb = [], []
    for _ in range(3):
        began_s = time.perf_counter()
        with trial.vigil() as service:
            took_s.append(time.perf_counter() - began_s)
            fresh_mb.append(worker_mb(service))
    yield "start to ready, empty state, median of 3", f"{statistics.median(took_s):.2f} s"
    yield "memory of a fresh worker (proportional set size)", f"{statistics.median(fresh_mb):.0f} MB"


def events(trial: Trial) -> Lines:
    """Payments scored one a request, each with a new id, by number of connections."""
    with trial.vigil() as service:
        for connections in (16, 64, 256, 512, 1024):
            load = scored(service, trial, trial.seconds, connections)
            what = f"`POST {SCORE}`, a new payment a request, {connections:,} connections"
            yield what, f"{load.requests_per_s:,.0f}/s; {shown(load)}"
        yield "memory of the worker after those", f"{worker_mb(service):.0f} MB"


def scored(service: Served, trial: Trial, seconds: int, connections: int) -> Load:
    """Load by payments that were never seen before."""
    ts = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lua = EVENTS.replace("{ts}", ts).replace("{run}", str(time.time_ns()))
    return wrk(service.url + SCORE, "", trial.folder, seconds, connections, JSON, lua)


def batches(trial: Trial) -> Lines:
    """A thousand rows a call, binary tensors in and out."""
    rows = np.tile(np.array(example_row(), np.float32), (BATCH_ROWS, 1))
    given = {"name": "features", "datatype": "FP32", "shape": list(rows.shape)}
    asked = {"name": "risk", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": rows.nbytes}}], "outputs": [asked]})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    body = head.encode() + rows.tobytes()
    with trial.vigil() as service:
        request = urllib.request.Request(service.url + INFER, body, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            risks = np.frombuffer(answer.read()[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)
        if (
            not np.allclose(risks, own_risk(model_store.resolve(MODEL).onnx_path, rows[0].tolist()), atol=TOLERANCE)
            or len(risks) != BATCH_ROWS
        ):
            raise VigilError(f"{BATCH_ROWS} rows: got {len(risks)} risks, or others than the model's own")
        load = wrk(service.url + INFER, body, trial.folder, trial.seconds, 8, headers)
    rows_per_s = (load.requests_per_s - load.errors / trial.seconds) * BATCH_ROWS
    rate = f"{rows_per_s:,.0f} rows/s; {shown(load)}"
    yield f"{BATCH_ROWS:,} rows a call, binary tensors over HTTP, 8 connections", rate


def streams(trial: Trial) -> Lines:
    """One row a message in `ModelStreamInfer`, messages sent without waiting for answers."""
    body = message(example_row()).SerializeToString()
    with trial.vigil() as service:
        load = h2load(
            service.grpc_address, STREAM_INFER, body, trial.folder, trial.seconds, 8, 1, messages=STREAM_MESSAGES
        )
    what = f"gRPC `ModelStreamInfer`, a row a message, 8 streams of {STREAM_MESSAGES} messages at a time"
    yield what, f"{load.requests_per_s:,.0f} messages/s; {load.errors:,} errors"


def tail(trial: Trial) -> Lines:
    """Latency at 70% of its own peak: over HTTP by callers who pause, over gRPC by fewer callers."""
    row = example_row()
    with trial.vigil() as service:
        ports = Ports(service.port, service.grpc_port, 0)
        peak = Http().load(ports, row, trial.folder, trial.seconds, 64).requests_per_s
        load = paused(service.url + INFER, json.dumps(oip(row)), trial, SHARE_OF_PEAK * peak)
        what = f"HTTP, a row a request, 64 connections that pause by chance, at {load.requests_per_s / peak:.0%}"
        yield f"{what} of its peak of {peak:,.0f}/s", shown(load)
        peak = Grpc().load(ports, row, trial.folder, trial.seconds, 64).requests_per_s
        for calls in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48):
            load = Grpc().load(ports, row, trial.folder, trial.seconds, calls)
            if load.requests_per_s >= SHARE_OF_PEAK * peak:
                break
        what = f"gRPC, a row a call, {calls} calls under way, at {load.requests_per_s / peak:.0%}"
        yield f"{what} of its peak of {peak:,.0f}/s", shown(load)


def paused(url: str, body: str, trial: Trial, rate_per_s: float, connections: int = 64) -> Load:
    """Load at about a rate: each caller pauses before each request, by chance between nothing and twice the mean."""
    pause_ms, cycle_ms = 0.0, connections * 1e3 / rate_per_s
    for _ in range(TRIES):
        load = wrk(url, body, trial.folder, 1, connections, JSON, PAUSES.replace("{pause_ms}", str(pause_ms)))
        pause_ms = max(0.0, pause_ms + cycle_ms - connections * 1e3 / load.requests_per_s)
    return wrk(url, body, trial.folder, trial.seconds, connections, JSON, PAUSES.replace("{pause_ms}", str(pause_ms)))


def kill(trial: Trial) -> Lines:
    """The worker killed with SIGKILL under load, three times: time until the next answer, calls that fail."""
    back_s, failed = [], 0
    with trial.vigil() as service, ThreadPoolExecutor(1) as pool:
        for phase in (1, 2, 3):
            load = pool.submit(scored, service, trial, trial.seconds + KILLED_S, 64)
            # The parent looks after its workers now and then: kill at different times of that.
            time.sleep(trial.seconds * phase / 3)
            killed_s = time.perf_counter()
            max(psutil.Process(service.process.pid).children(recursive=True), key=lambda p: p.memory_info().rss).kill()
            with urllib.request.urlopen(f"{service.url}/v2/health/ready", timeout=60):
                back_s.append(time.perf_counter() - killed_s)
            failed += load.result().errors
    times = ", ".join(f"{each:.1f}" for each in sorted(back_s))
    yield "worker killed with `kill -9` under load, until the next answer, three times", f"{times} s"
    yield "calls of 64 connections that failed by those", f"{failed:,}"


def fast_overload(trial: Trial) -> Lines:
    """The champion, asked by eight times as many connections as bring it to its peak, which never pause."""
    body = json.dumps(oip(example_row())).encode()
    with trial.vigil() as service:
        peak = overload(service.url + INFER, body, trial.folder, trial.seconds, 64)
        run = overload(service.url + INFER, body, trial.folder, trial.seconds, 512)
    yield f"champion, 512 connections that ask again at once; 64 get {peak.good_per_s:,.0f}/s", survived(run, peak)


def slow_overload(trial: Trial) -> Lines:
    """A model of 5 ms a batch, arrivals at twice its peak."""
    home = trial.folder / "bentoml"
    with environment("BENTOML_HOME", str(home)):
        slow_model.store(trial.folder, domains.load(MODEL), SLOW_ROWS, SLOW_S)
    body = json.dumps(oip(example_row())).encode()
    with trial.vigil(BENTOML_HOME=str(home), VIGIL_MAX_BATCH=str(SLOW_ROWS)) as service:
        peak = overload(service.url + INFER, body, trial.folder, trial.seconds, 2 * SLOW_ROWS)
        wire = partial(Http1, service.address, INFER, JSON, body)
        run = paced(wire, LOCALHOST, service.port, 2 * peak.good_per_s, trial.seconds, 512)
    name = f"model of {SLOW_S * 1e3:.0f} ms a batch of {SLOW_ROWS}"
    yield f"{name}, arrivals at twice its peak of {peak.good_per_s:,.0f}/s, 512 connections", survived(run, peak)


def survived(run: Outcome, peak: Outcome) -> str:
    """What became of the requests of an overload."""
    kept = f"{run.good_per_s:,.0f}/s answered ({run.good_per_s / max(peak.good_per_s, 1e-9):.0%} of peak)"
    refused = f"{run.refused_per_s:,.0f}/s refused with 429, {run.failed_per_s:,.0f}/s failed"
    return f"{kept}, p50 {run.p50_ms:.1f} ms, p99 {run.p99_ms:.1f} ms; {refused}"


@contextmanager
def environment(key: str, value: str) -> Iterator[None]:
    """A variable of this process, for a while."""
    before = os.environ.get(key)
    os.environ[key] = value
    try:
        yield
    finally:
        os.environ.pop(key)
        if before is not None:
            os.environ[key] = before


MEASUREMENTS: dict[str, Callable[[Trial], Lines]] = {
    "start": start,
    "events": events,
    "batches": batches,
    "streams": streams,
    "tail": tail,
    "kill": kill,
    "overload": fast_overload,
    "slow": slow_overload,
}


def main(
    only: Annotated[str, typer.Option(help=f"Some of {','.join(MEASUREMENTS)}; all.")] = "",
    seconds: Annotated[int, typer.Option(min=1, help="Seconds of load a run.")] = 5,
    write: Annotated[
        Path | None, typer.Option(help="Page that gets the table between its markers.", dir_okay=False)
    ] = None,
) -> None:
    """Measures one Vigil with the champion of the model store and prints a Markdown table."""
    console = Console()
    rows: list[tuple[str, str]] = []
    keys = [key for key in only.split(",") if key] or list(MEASUREMENTS)
    try:
        if unknown := set(keys) - set(MEASUREMENTS):
            raise InvalidInput(f"--only: got {', '.join(unknown)}, wanted some of {', '.join(MEASUREMENTS)}")
        model_store.verify(model_store.resolve(MODEL), domains.load(MODEL))
        for key in keys:
            with tempfile.TemporaryDirectory(prefix="vigil-limits-") as folder, console.status(key):
                try:
                    rows += MEASUREMENTS[key](Trial(seconds, Path(folder)))
                except (VigilError, OSError) as failure:
                    rows.append((key, f"missing: {str(failure).splitlines()[0]}"))
        table = page.markdown(("", ""), rows)
        print(table)
        if write:
            page.put(write, MARKER, f"{page.origin('python -m loadtest.limits')}\n\n{table}")
    except VigilError as failure:
        console.print(f"[red]limits: {failure}")
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
