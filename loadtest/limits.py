"""`python -m loadtest.limits`: what one Vigil holds by itself: rates, tail, start, memory, a kill, overload."""

from __future__ import annotations

import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import numpy as np
import psutil
import typer
from rich.console import Console
from tritonclient.grpc import service_pb2_grpc

import model_store
from loadtest import page, slow_model
from loadtest.bench import example_row
from loadtest.calls import MODEL, Grpc, Http, Ports, message, oip
from loadtest.overload import Outcome, overload, timed
from loadtest.paced import Paced, paced
from loadtest.served import LOCALHOST, ROOT, Served
from loadtest.usage import memory_mb
from loadtest.wires import GrpcUnary, Http1
from loadtest.wrk import JSON, Load, wrk
from vigil import domains
from vigil.errors import InvalidInput, VigilError

MARKER = "loadtest.limits"
INFER, SCORE = f"/v2/models/{MODEL}/infer", f"/v1/{MODEL}/score"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
BATCH_ROWS, STREAM_MESSAGES = 1000, 1000
SHARE_OF_PEAK = 0.7
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
    script = "import time; s = time.perf_counter(); import vigil.transports.worker; print(time.perf_counter() - s)"
    command = [sys.executable, "-c", script]
    imports = [float(subprocess.check_output(command, cwd=ROOT, text=True)) for _ in range(5)]
    yield "import of `vigil.transports.worker`, median of 5", f"{statistics.median(imports):.2f} s"
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
    with trial.vigil() as service:
        body = head.encode() + rows.tobytes()
        load = wrk(service.url + INFER, body, trial.folder, trial.seconds, 8, headers)
    rate = f"{load.requests_per_s * BATCH_ROWS:,.0f} rows/s; {shown(load)}"
    yield f"{BATCH_ROWS:,} rows a call, binary tensors over HTTP, 8 connections", rate


def streams(trial: Trial) -> Lines:
    """One row a message in `ModelStreamInfer`; a stream holds a thousand messages, sent without waiting for answers."""
    request = message(example_row())
    sent = request.SerializeToString()
    body = (struct.pack(">BI", 0, len(sent)) + sent) * STREAM_MESSAGES
    options = ["-c8", "-m1", "-Hcontent-type: application/grpc", "-Hte: trailers"]
    with trial.vigil() as service:
        with grpc.insecure_channel(service.grpc_address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer_bytes = 5 + next(stub.ModelStreamInfer(iter([request]), timeout=10)).ByteSize()
        _, said = timed(f"http://{service.grpc_address}{STREAM_INFER}", body, trial.folder, trial.seconds, options)
    got = re.search(r"\((\d+)\) data", said)
    rate = int(got[1]) / answer_bytes / trial.seconds if got else 0.0
    what = f"gRPC `ModelStreamInfer`, a row a message, 8 streams of {STREAM_MESSAGES:,} messages at a time"
    yield what, f"{rate:,.0f} messages/s (by the bytes of the answers)"


def tail(trial: Trial) -> Lines:
    """Latency at a constant rate of arrivals of 70% of the peak, over HTTP and gRPC."""
    row = example_row()
    with trial.vigil() as service:
        ports = Ports(service.port, service.grpc_port, 0)
        body, call = json.dumps(oip(row)).encode(), message(row).SerializeToString()
        ways = (
            ("HTTP", Http(), service.port, lambda: Http1(service.address, INFER, JSON, body)),
            ("gRPC", Grpc(), service.grpc_port, lambda: GrpcUnary(service.grpc_address, MODEL_INFER, call)),
        )
        for name, way, port, wire in ways:
            peak = way.load(ports, row, trial.folder, trial.seconds, 64)
            rate = peak.requests_per_s * SHARE_OF_PEAK
            run = paced(wire, LOCALHOST, port, rate, trial.seconds)
            what = (
                f"{name}, a row a request, arrivals at {SHARE_OF_PEAK:.0%} of its peak of {peak.requests_per_s:,.0f}/s"
            )
            yield what, arrived(run)


def arrived(run: Paced) -> str:
    """A run at a constant rate."""
    kept = f"{run.answered_per_s:,.0f} of {run.wanted_per_s:,.0f}/s answered"
    return f"p50 {run.p50_ms:.1f} ms, p99 {run.p99_ms:.1f} ms; {kept}, {run.errors:,} errors"


def kill(trial: Trial) -> Lines:
    """The worker killed with SIGKILL under load: the time until the next answer, and how many calls fail."""
    with trial.vigil() as service:
        under: list[Load] = []
        seconds = trial.seconds + 10
        load = threading.Thread(target=lambda: under.append(scored(service, trial, seconds, 64)))
        load.start()
        time.sleep(trial.seconds / 2)
        worker = max(psutil.Process(service.process.pid).children(recursive=True), key=lambda p: p.memory_info().rss)
        worker.kill()
        killed_s = time.perf_counter()
        worker.wait(10)
        with urllib.request.urlopen(f"{service.url}/v2/health/ready", timeout=60):
            back_s = time.perf_counter() - killed_s
        load.join()
        yield "worker killed with `kill -9` under load, until the next answer", f"{back_s:.2f} s"
        yield "calls of 64 connections that failed by it", f"{under[0].errors:,}"


def fast_overload(trial: Trial) -> Lines:
    """The champion at twice its peak."""
    with trial.vigil() as service:
        yield from twice(trial, service, "champion", 64)


def slow_overload(trial: Trial) -> Lines:
    """A model of 5 ms a batch at twice its peak."""
    home = trial.folder / "bentoml"
    with environment("BENTOML_HOME", str(home)):
        slow_model.store(trial.folder, domains.load(MODEL), SLOW_ROWS, SLOW_S)
    with trial.vigil(BENTOML_HOME=str(home), VIGIL_MAX_BATCH=str(SLOW_ROWS)) as service:
        yield from twice(trial, service, f"model of {SLOW_S * 1e3:.0f} ms a batch of {SLOW_ROWS}", 2 * SLOW_ROWS)


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


def twice(trial: Trial, service: Served, name: str, connections: int) -> Lines:
    """Peak over `connections`, then arrivals at twice that over 512."""
    url, body = service.url + INFER, json.dumps(oip(example_row())).encode()
    peak = overload(url, body, trial.folder, trial.seconds, connections)
    run = overload(url, body, trial.folder, trial.seconds, 512, 2 * peak.good_per_s)
    what = f"{name}, arrivals at twice its peak of {peak.good_per_s:,.0f}/s, 512 connections"
    yield what, survived(run, peak)


def survived(run: Outcome, peak: Outcome) -> str:
    """What became of the requests of an overload."""
    kept = f"{run.good_per_s:,.0f}/s answered ({run.good_per_s / max(peak.good_per_s, 1e-9):.0%} of peak)"
    refused = f"{run.refused_per_s:,.0f}/s refused with 429, {run.failed_per_s:,.0f}/s failed"
    return f"{kept}, p99 {run.good_p99_ms:.1f} ms; {refused}; {run.offered_per_s:,.0f}/s came to an end"


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
