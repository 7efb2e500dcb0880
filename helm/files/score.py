"""What `helm test` runs in Vigil's image: one event through the Service, by the full model, or exit code 1."""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path

KEY = os.environ.get("VIGIL_CLIENT_KEY", "")


def over_http(address: str, domain: str, event: dict) -> dict:
    """The decision, over HTTP."""
    return over(f"http://{address}", domain, event)


def over_https(address: str, domain: str, event: dict) -> dict:
    """The decision, over HTTP with TLS."""
    return over(f"https://{address}", domain, event)


def over(url: str, domain: str, event: dict) -> dict:
    headers = {"X-API-Key": KEY} if KEY else {}
    request = urllib.request.Request(f"{url}/v1/{domain}/score", json.dumps(event).encode(), headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def over_grpc(address: str, domain: str, event: dict) -> dict:
    """The decision, over gRPC."""
    import grpc

    return over_channel(grpc.insecure_channel(address), domain, event)


def over_grpcs(address: str, domain: str, event: dict) -> dict:
    """The decision, over gRPC with TLS."""
    import grpc

    file = os.environ.get("SSL_CERT_FILE")
    authorities = Path(file).read_bytes() if file else None
    return over_channel(grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities)), domain, event)


def over_channel(opened: object, domain: str, event: dict) -> dict:
    """The decision: entities have keys of text, the rest is numbers."""
    from vigil.transports.proto import decisions_pb2 as pb
    from vigil.transports.proto import decisions_pb2_grpc as rpc

    values = {key: value for key, value in event.items() if key not in ("event_id", "ts")}
    entities = {key: value for key, value in values.items() if isinstance(value, str)}
    message = pb.Event(event_id=event["event_id"], ts_ms=event["ts"], entities=entities)
    message.numbers.update({key: value for key, value in values.items() if key not in entities})
    with opened as channel:
        asked = pb.ScoreRequest(domain=domain, events=[message])
        metadata = [("x-api-key", KEY)] if KEY else []
        decision = rpc.DecisionsStub(channel).Score(asked, timeout=5, metadata=metadata).decisions[0]
    return {key: getattr(decision, key) for key in ("event_id", "risk", "action", "tier", "degraded")}


BY = {"http": over_http, "https": over_https, "grpc": over_grpc, "grpcs": over_grpcs}


def main(transport: str, address: str, domain: str, event: str, timeout_s: str) -> int:
    """Asks until there is an answer or the time is over; the same event counts once."""
    now_ms = int(time.time() * 1000)
    asked = {"event_id": f"helm-test-{transport}-{now_ms}", "ts": now_ms, **json.loads(event)}
    until_s = time.monotonic() + float(timeout_s)
    while True:
        try:
            decision = BY[transport](address, domain, asked)
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
