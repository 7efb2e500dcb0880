"""Plain HTTP calls, as any client makes them."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

from testbed.served import LOCALHOST

DAY = "2018-09-30T12:00:00Z"


class Answer(NamedTuple):
    """Status, headers in lower case and the body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        message = self.json["error"]
        assert isinstance(message, str)
        assert "Traceback" not in message
        return message


def call(port: int, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
    """One request; `body` goes as it is where it is bytes, else as JSON."""
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(LOCALHOST, port, timeout=30)
    try:
        connection.request(method, path, raw, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def payment(event_id: str | int, **changes: Any) -> dict[str, Any]:
    """A valid payment with `changes`."""
    return {"event_id": event_id, "ts": DAY, "customer": "C1", "terminal": "T1", "amount": 31.5} | changes


def tensor(rows: list[list[float]], **changes: Any) -> dict[str, Any]:
    """An infer request for feature rows, its one input with `changes`."""
    data = [value for row in rows for value in row]
    return {
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": data} | changes]
    }
