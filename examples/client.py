"""Scores payments from Python, over HTTP with the standard library and over gRPC with the shipped messages.

`.venv/bin/python examples/client.py [127.0.0.1:3000 [127.0.0.1:3001]]`, beside a running service (`make run`).
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
import uuid
from typing import Any

import grpc

from vigil.transports.proto import decisions_pb2, decisions_pb2_grpc

TIMEOUT_S = 10.0


def score_over_http(address: str, payments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Decisions on payments, in order. A repeated `event_id` gets the first answer, so a retry is safe."""
    request = urllib.request.Request(
        f"http://{address}/v1/payments/score", json.dumps(payments).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        decisions: list[dict[str, Any]] = json.load(answer)
    return decisions


def score_over_grpc(address: str, payments: list[dict[str, Any]]) -> list[Any]:
    """The same over gRPC. The deadline travels with the call: the service drops what would be late."""
    events = []
    for payment in payments:
        event = decisions_pb2.Event(event_id=payment["event_id"], ts_ms=payment["ts"])
        event.entities.update({name: payment[name] for name in ("customer", "terminal")})
        event.numbers["amount"] = payment["amount"]
        events.append(event)
    with grpc.insecure_channel(address) as channel:
        stub = decisions_pb2_grpc.DecisionsStub(channel)
        request = decisions_pb2.ScoreRequest(domain="payments", events=events)
        return list(stub.Score(request, timeout=TIMEOUT_S).decisions)


def main(http: str = "127.0.0.1:3000", rpc: str = "127.0.0.1:3001") -> None:
    """Scores the same three payments both ways; both answers agree."""
    now_ms, run = time.time_ns() // 1_000_000, uuid.uuid4().hex[:8]
    payments = [
        {"event_id": f"{run}-{i}", "ts": now_ms + i, "customer": "C42", "terminal": "T7", "amount": amount}
        for i, amount in enumerate((12.0, 31.5, 990.0))
    ]
    for over_http, over_grpc in zip(score_over_http(http, payments), score_over_grpc(rpc, payments), strict=True):
        print(f"{over_http['event_id']}: {over_http['action']}, risk {over_http['risk']:.4f}")
        assert over_http["risk"] == over_grpc.risk, "the same event has one answer"


if __name__ == "__main__":
    main(*sys.argv[1:])
