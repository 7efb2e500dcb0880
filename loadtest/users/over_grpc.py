"""Callers over gRPC: a call a payment, or one stream for all."""

from __future__ import annotations

from typing import Any

import grpc
from gevent.queue import Queue
from grpc.experimental import gevent as grpc_gevent

from loadtest.arrivals import BadAnswer, Caller, client_key
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc as rpc

LIMIT_S = 10.0
METADATA = [("x-api-key", key)] if (key := client_key()) else []

grpc_gevent.init_gevent()


class GrpcCaller(Caller):
    """One channel of its own, as a client in another process has."""

    abstract = True

    def open(self) -> None:
        # Channels of a process share connections unless told otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(self.environment.parsed_options.grpc_host, options)
        self.stub = rpc.DecisionsStub(self.channel)

    def on_stop(self) -> None:
        self.channel.close()

    def request(self) -> Any:
        """The next payment."""
        made = next(self.payments)
        event = pb.Event(event_id=made["event_id"], ts_ms=made["ts"], numbers={"amount": made["amount"]})
        event.entities.update({"customer": str(made["customer"]), "terminal": str(made["terminal"])})
        return pb.ScoreRequest(domain="payments", events=[event])


class GrpcOne(GrpcCaller):
    """A unary call a payment."""

    kind, route = "gRPC, a payment", ("grpc", "Score")

    def ask(self) -> int:
        answer = self.stub.Score(self.request(), timeout=LIMIT_S, metadata=METADATA)
        if len(answer.decisions) != 1:
            raise BadAnswer(f"Score: wanted a decision, got {len(answer.decisions)}")
        return int(answer.ByteSize())


class GrpcStream(GrpcCaller):
    """A message a payment, in a stream that is opened again where it breaks."""

    kind, route = "gRPC stream, a payment", ("grpc", "ScoreStream")

    def open(self) -> None:
        super().open()
        self._start()

    def ask(self) -> int:
        self._sent.put(self.request())
        try:
            answer = next(self._answers)
        except (grpc.RpcError, StopIteration):
            self._start()
            raise
        if len(answer.decisions) != 1:
            raise BadAnswer(f"ScoreStream: wanted a decision, got {answer.error.code} {answer.error.message}")
        return int(answer.ByteSize())

    def on_stop(self) -> None:
        self._sent.put(StopIteration)
        super().on_stop()

    def _start(self) -> None:
        self._sent: Queue[Any] = Queue()
        self._answers = self.stub.ScoreStream(iter(self._sent), metadata=METADATA)
