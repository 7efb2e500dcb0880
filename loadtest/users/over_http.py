"""Callers over HTTP: a payment a request, an array of them, rows of features."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from locust.contrib.fasthttp import FastHttpUser

from loadtest.arrivals import BadAnswer, Caller, client_key

SCORE, INFER = "/v1/payments/score", "/v2/models/payments/infer"
ROWS = 32
KEY = {"X-API-Key": key} if (key := client_key()) else {}


class HttpCaller(FastHttpUser, Caller):
    """Posts JSON over one kept connection."""

    abstract = True
    network_timeout = connection_timeout = 10.0
    path = SCORE

    def ask(self) -> int:
        return len(self.post(self.path, self.body(), b'"risk"'))

    def body(self) -> Any:
        """Of the next request, ready for JSON."""
        raise NotImplementedError

    def post(self, path: str, body: Any, wanted: bytes) -> bytes:
        """The answer; raises where its status is an error or it lacks what is wanted."""
        answer = self.client.post(
            path, data=json.dumps(body), headers={"Content-Type": "application/json"} | KEY, catch_response=True
        )
        answer.raise_for_status()
        content: bytes = answer.content or b""
        if wanted not in content:
            raise BadAnswer(f"POST {path}: wanted {wanted!r} in the answer, got {content[:100]!r}")
        return content


class HttpOne(HttpCaller):
    """A payment a request."""

    kind, route = "HTTP, a payment", ("http", "/v1/{domain}/score")

    def body(self) -> Any:
        return next(self.payments)


class HttpMany(HttpCaller):
    """An array of 32 payments a request."""

    kind, route = f"HTTP, {ROWS} payments", HttpOne.route

    def body(self) -> Any:
        return list(islice(self.payments, ROWS))


class Infer(HttpCaller):
    """A row of features a request, by the Open Inference Protocol: those of a payment that it has scored first."""

    kind, route = "HTTP, a feature row", ("http", "/v2/models/{model}/infer")
    path = INFER

    def open(self) -> None:
        scored = json.loads(self.post(f"{SCORE}?features=true", next(self.payments), b'"features"'))
        self._row = list(scored["features"].values())

    def body(self) -> Any:
        given = {"name": "features", "datatype": "FP32", "shape": [1, len(self._row)], "data": self._row}
        return {"inputs": [given]}
