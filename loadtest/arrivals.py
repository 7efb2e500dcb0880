"""Callers whose requests fall due at a constant rate, whatever the server does."""

from __future__ import annotations

import itertools
import random
from time import perf_counter
from typing import Any

import gevent
from locust import User, constant, task

from loadtest.payments import payments
from loadtest.scenario import PER_S
from vigil import settings
from vigil.errors import VigilError

NUMBERS = itertools.count()


def client_key() -> str:
    """The API key to call with; "" for none."""
    return settings.load().client_key


class BadAnswer(VigilError):
    """An answer without what was asked for."""


class Caller(User):
    """One caller, with a request under way at most; what falls due meanwhile is sent as soon as that is answered.

    The time that is reported runs from when a request was due, so a server that stands still hides nothing.
    """

    abstract = True
    wait_time = constant(0)
    kind = ""  # what tables call it
    route = ("", "")  # transport and route of its calls in Vigil's metrics

    def on_start(self) -> None:
        seed = f"{self.environment.parsed_options.seed}/{next(NUMBERS)}"
        self.payments = payments(random.Random(seed).getrandbits(32))
        self.open()
        self._due_s = perf_counter() + random.random() / PER_S

    def open(self) -> None:
        """Makes what is kept over all requests."""

    def ask(self) -> int:
        """One request; bytes of its answer. Whatever it raises is a failure."""
        raise NotImplementedError

    @task
    def arrive(self) -> None:
        """Waits for the next request to fall due, sends it, tells Locust."""
        gevent.sleep(max(0.0, self._due_s - perf_counter()))
        failure: Exception | None = None
        length = 0
        try:
            length = self.ask()
        except Exception as raised:
            failure = raised
        told: dict[str, Any] = {"request_type": self.route[0], "name": self.kind, "context": {}}
        took_ms = (perf_counter() - self._due_s) * 1000
        self.environment.events.request.fire(**told, response_time=took_ms, response_length=length, exception=failure)
        self._due_s += 1 / PER_S
