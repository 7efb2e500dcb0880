"""A constant rate of arrivals, against real servers made here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.calls import message
from loadtest.paced import paced
from loadtest.wires import GrpcUnary, Http1
from testbed.served import LOCALHOST

METHOD = "/inference.GRPCInferenceService/ModelInfer"
BODY = b'{"a": 1}'


@contextmanager
def http_server(status: Callable[[int], int], first_s: float = 0.0) -> Iterator[int]:
    """Answers its n-th request with `status(n)`, the first after `first_s`; gives the port."""
    lock, seen = threading.Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            nonlocal seen
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                seen += 1
                turn = seen
            if turn == 1:
                time.sleep(first_s)
            self.send_response(status(turn) if (self.path, body) == ("/x", BODY) else 400)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((LOCALHOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_server(fails: bool) -> Iterator[int]:
    """grpcio itself, answering ModelInfer, or failing it; gives the port."""

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
            if fails or request.model_name != "payments":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
            return service_pb2.ModelInferResponse(raw_output_contents=[np.float32(0.5).tobytes()])

    server = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port(f"{LOCALHOST}:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_every_request_that_falls_due_is_sent_and_counted() -> None:
    with http_server(lambda n: 200) as port:
        wire = partial(Http1, f"{LOCALHOST}:{port}", "/x", {"Content-Type": "application/json"}, BODY)
        run = paced(wire, LOCALHOST, port, rate_per_s=200, seconds=0.5, connections=4)
    assert (run.sent_per_s, run.good_per_s, run.refused_per_s, run.failed_per_s) == (200, 200, 0, 0)


def test_refusals_and_failures_are_counted_apart() -> None:
    with http_server(lambda n: {0: 429, 1: 500}.get(n % 4, 200)) as port:
        wire = partial(Http1, f"{LOCALHOST}:{port}", "/x", {}, BODY)
        run = paced(wire, LOCALHOST, port, rate_per_s=200, seconds=0.5, connections=4)
    assert (run.good_per_s, run.refused_per_s, run.failed_per_s) == (100, 50, 50)


def test_a_standstill_of_the_server_shows_in_all_that_fell_due_meanwhile() -> None:
    with http_server(lambda n: 200, first_s=0.4) as port:
        wire = partial(Http1, f"{LOCALHOST}:{port}", "/x", {}, BODY)
        run = paced(wire, LOCALHOST, port, rate_per_s=100, seconds=0.5, connections=1)
    # The first 40 of 50 requests fall due while it stands still, one connection being all there is.
    assert run.good_per_s == 100
    assert run.p50_ms > 100


def test_grpc_calls_are_understood_by_grpcio_over_more_than_one_window() -> None:
    body = message([0.5] * 1000).SerializeToString()
    with grpc_server(fails=False) as port:
        wire = partial(GrpcUnary, f"{LOCALHOST}:{port}", METHOD, body)
        run = paced(wire, LOCALHOST, port, rate_per_s=200, seconds=0.5, connections=2)
    assert (run.good_per_s, run.failed_per_s) == (200, 0)


def test_a_grpc_error_is_a_failure() -> None:
    with grpc_server(fails=True) as port:
        wire = partial(GrpcUnary, f"{LOCALHOST}:{port}", METHOD, message([0.5]).SerializeToString())
        run = paced(wire, LOCALHOST, port, rate_per_s=100, seconds=0.2, connections=2)
    assert (run.good_per_s, run.failed_per_s) == (0, 100)


def test_an_answer_counts_once_however_it_is_cut() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + b"HTTP/1.1 429 X\r\ncontent-length: 0\r\n\r\n"
    wire = Http1("a", "/x", {}, b"")
    assert [status for i in range(len(answer)) for status in wire.take(answer[i : i + 1])[0]] == [200, 429]
