"""Somebody who is told of alerts."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from testbed.served import LOCALHOST

Alert = dict[str, Any]


class Webhook:
    """Takes what Alertmanager sends, for as long as a `with` block lasts."""

    def __init__(self) -> None:
        came: SimpleQueue[Alert] = SimpleQueue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in body["alerts"]:
                    came.put(alert)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self._came, self._server = came, ThreadingHTTPServer((LOCALHOST, 0), Handler)
        self.url = f"http://{LOCALHOST}:{self._server.server_port}/"

    def next(self, wait_s: float) -> Alert | None:
        """The next alert; None where none comes in that time."""
        try:
            return self._came.get(timeout=wait_s)
        except Empty:
            return None

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
