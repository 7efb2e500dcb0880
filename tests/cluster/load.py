"""Runs in a pod of Vigil's image: sends payments to the Service until SIGTERM, then says what became of them.

`python -c THIS HOST RATE`, calls a second: half over HTTP, each on a connection of its own, as a new caller, half over
gRPC on one that is kept. When a call is due does not depend on the answers before it, so a pause of the service shows.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
import time

import grpc

from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc as rpc

HTTP_PORT, GRPC_PORT, LIMIT_S = 3000, 3001, 10.0
HEAD = (
    "POST /v1/payments/score HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nx-api-key: {}\r\ncontent-length: {}\r\n\r\n"
)
KEY = os.environ["VIGIL_CLIENT_KEY"]
RUN = os.urandom(4).hex()


async def over_http(host: str, number: int) -> None:
    """One payment on a connection of its own; anything but a decision raises."""
    event = {
        "event_id": f"{RUN}-h{number}",
        "ts": int(time.time() * 1000),
        "customer": "c1",
        "terminal": "t1",
        "amount": 9.5,
    }
    body = json.dumps(event).encode()
    reader, writer = await asyncio.open_connection(host, HTTP_PORT)
    try:
        writer.write(HEAD.format(host, KEY, len(body)).encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    if not answer.startswith(b"HTTP/1.1 200 ") or b'"risk"' not in answer:
        raise ConnectionError(answer[:200].decode(errors="replace") or "closed without an answer")


async def over_grpc(stub: rpc.DecisionsStub, number: int) -> None:
    """One payment on the kept connection."""
    event = pb.Event(event_id=f"{RUN}-g{number}", ts_ms=int(time.time() * 1000))
    event.entities.update({"customer": "c2", "terminal": "t2"})
    event.numbers["amount"] = 9.5
    answer = await stub.Score(pb.ScoreRequest(domain="payments", events=[event]), metadata=[("x-api-key", KEY)])
    if len(answer.decisions) != 1:
        raise ConnectionError("no decision")


async def main(host: str, rate: float) -> None:
    """Sends until SIGTERM; then prints one line of JSON: calls, failures, the first of them, slowest in ms."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    failures: list[str] = []
    slowest_ms = {"http": 0.0, "grpc": 0.0}
    started_s = time.monotonic()

    async def call(name: str, making: object) -> None:
        began_s = time.monotonic()
        try:
            await asyncio.wait_for(making, LIMIT_S)
        except Exception as failure:
            failures.append(f"{began_s - started_s:.2f} s {name}: {type(failure).__name__} {str(failure)[:160]}")
        slowest_ms[name] = max(slowest_ms[name], (time.monotonic() - began_s) * 1000)

    under_way = set()
    async with grpc.aio.insecure_channel(f"{host}:{GRPC_PORT}") as channel:
        stub = rpc.DecisionsStub(channel)
        for number in itertools.count():
            if stopped.is_set():
                break
            for name, making in (("http", over_http(host, number)), ("grpc", over_grpc(stub, number))):
                task = asyncio.create_task(call(name, making))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            if number == 0:
                print("started", flush=True)
            await asyncio.sleep(max(0.0, started_s + (number + 1) * 2 / rate - time.monotonic()))
        await asyncio.gather(*under_way)
    print(json.dumps({"calls": 2 * number, "failed": len(failures), "first": failures[:5], "slowest_ms": slowest_ms}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
