"""The calls that are measured: one feature row in, one risk out, over HTTP or gRPC."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.h2load import h2load
from loadtest.wrk import JSON, Load, wrk
from testbed.served import LOCALHOST

MODEL = "payments"
WAIT_S = 10.0
STREAMS = 8  # calls at once on a gRPC connection
Row = list[float]


@dataclass(frozen=True)
class Ports:
    """Where a server listens on the loopback interface."""

    http: int
    grpc: int
    metrics: int


class Call(Protocol):
    """One way to ask a server."""

    @property
    def protocol(self) -> str:
        """What the tables call it."""

    def ask(self, ports: Ports, row: Row) -> float:
        """The risk of `row`; OSError, ValueError, LookupError or grpc.RpcError where there is none."""

    def load(self, ports: Ports, row: Row, folder: Path, seconds: int, connections: int) -> Load:
        """Asks over and over with `connections` requests under way, of which gRPC puts several on a connection."""


def oip(row: Row) -> object:
    """An infer request of the Open Inference Protocol."""
    return {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}


@dataclass(frozen=True)
class Http:
    """A POST of JSON.

    Args:
        path: of the route.
        body: makes the body of a row.
        risk: where in the answer the risk stands, as keys and indexes.
    """

    path: str = f"/v2/models/{MODEL}/infer"
    body: Callable[[Row], object] = oip
    risk: tuple[str | int, ...] = ("outputs", 0, "data", 0)
    protocol: str = "HTTP"

    def ask(self, ports: Ports, row: Row) -> float:
        request = urllib.request.Request(self._url(ports), json.dumps(self.body(row)).encode(), JSON)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            found: Any = reduce(getitem, self.risk, json.load(answer))
        return float(found)

    def load(self, ports: Ports, row: Row, folder: Path, seconds: int, connections: int) -> Load:
        return wrk(self._url(ports), json.dumps(self.body(row)), folder, seconds, connections)

    def _url(self, ports: Ports) -> str:
        return f"http://{LOCALHOST}:{ports.http}{self.path}"


@dataclass(frozen=True)
class Grpc:
    """ModelInfer of the Open Inference Protocol, raw contents."""

    protocol: str = "gRPC"

    def ask(self, ports: Ports, row: Row) -> float:
        with grpc.insecure_channel(self._address(ports)) as channel:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message(row), timeout=WAIT_S)
        return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])

    def load(self, ports: Ports, row: Row, folder: Path, seconds: int, connections: int) -> Load:
        body = message(row).SerializeToString()
        streams = min(connections, STREAMS)
        method = "/inference.GRPCInferenceService/ModelInfer"
        return h2load(self._address(ports), method, body, folder, seconds, connections // streams, streams)

    def _address(self, ports: Ports) -> str:
        return f"{LOCALHOST}:{ports.grpc}"


def message(row: Row) -> Any:
    """The ModelInferRequest of a row."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="features", datatype="FP32", shape=[1, len(row)])
    request.raw_input_contents.append(np.array(row, np.float32).tobytes())
    return request
