"""What `helm test` runs in Vigil's image: one event through the Service, by the full model, or exit code 1."""

import json
import sys
import time
import urllib.request


def over_http(address: str, domain: str, event: dict) -> dict:
    """The decision, over HTTP."""
    request = urllib.request.Request(f"http://{address}/v1/{domain}/score", json.dumps(event).encode())
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def over_grpc(address: str, domain: str, event: dict) -> dict:
    """The decision, over gRPC: entities have keys of text, the rest is numbers."""
    import grpc

    from vigil.transports.proto import decisions_pb2 as pb
    from vigil.transports.proto import decisions_pb2_grpc as rpc

    values = {key: value for key, value in event.items() if key not in ("event_id", "ts")}
    entities = {key: value for key, value in values.items() if isinstance(value, str)}
    message = pb.Event(event_id=event["event_id"], ts_ms=event["ts"], entities=entities)
    message.numbers.update({key: value for key, value in values.items() if key not in entities})
    with grpc.insecure_channel(address) as channel:
        asked = pb.ScoreRequest(domain=domain, events=[message])
        decision = rpc.DecisionsStub(channel).Score(asked, timeout=5).decisions[0]
    return {key: getattr(decision, key) for key in ("event_id", "risk", "action", "tier", "degraded")}


def main(transport: str, address: str, domain: str, event: str, timeout_s: str) -> int:
    """Asks until there is an answer or the time is over; the same event counts once."""
    now_ms = int(time.time() * 1000)
    asked = {"event_id": f"helm-test-{transport}-{now_ms}", "ts": now_ms, **json.loads(event)}
    until_s = time.monotonic() + float(timeout_s)
    while True:
        try:
            decision = {"http": over_http, "grpc": over_grpc}[transport](address, domain, asked)
            break
        except Exception as failure:
            if time.monotonic() > until_s:
                print(f"{transport} {address}: no decision: {failure}")
                return 1
            time.sleep(0.5)
    print(f"{transport} {address}: {decision}")
    return 0 if decision["tier"] == "full" and not decision["degraded"] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
